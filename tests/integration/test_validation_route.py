"""Validation through the gateway: HTTP in, the service's findings out, errors in OpenAI's form."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from bem_fleet.services.gateway.app import make_app
from bem_fleet.services.gateway.settings import GatewaySettings
from fleet.testing import RedisServer, free_port

from tests.integration.validations import scores, validation
from tests.support.access_keys import write_access_keys

MANY = [1] * 150_000
JSON = {"Content-Type": "application/json"}
LINEAGE = {
    "mission_digest": "m1",
    "baseline_digest": "b1",
    "data_digest": "d1",
    "command": "make synthetic",
}


@pytest.fixture
async def address(tmp_path: Path, redis_server: RedisServer) -> AsyncIterator[str]:
    """A validation service; yields where it listens."""
    async with validation(tmp_path, redis_server) as (_, running):
        yield running.address


@pytest.fixture
async def http(
    address: str, redis_server: RedisServer, tmp_path: Path
) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the operator's key of a gateway in front of it."""
    port, keys = free_port(), write_access_keys(tmp_path / "keys")
    app = make_app(
        GatewaySettings(validation_address=address, redis_url=redis_server.url, keys_file=keys.file)
    )
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, access_log=False)
    )
    serving = asyncio.create_task(server.serve())
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}/v1/validation",
        timeout=30,
        headers=keys.headers("operator"),
    ) as client:
        await _listening(client)
        yield client
    server.should_exit = True
    await serving


async def _listening(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await client.get("/claims")
            except httpx.ConnectError:
                await asyncio.sleep(0.02)  # uvicorn has no event for it
            else:
                return


def sides(metric: str = "f1", gain: float = 0.05) -> dict[str, Any]:
    """Return paired scores of three seeds."""
    given = scores(metric, gain)
    return {
        name: [list(matrix.values[row * 300 : (row + 1) * 300]) for row in range(3)]
        for name, matrix in (("mission", given.mission), ("baseline", given.baseline))
    }


def comparison(claim: str = "c1", **changed: Any) -> dict[str, Any]:
    """Return the body of a comparison."""
    return {"claim": claim, "metric": "f1", **sides(), "lineage": LINEAGE, **changed}


def verdict(claim: str = "g1", **changed: Any) -> dict[str, Any]:
    """Return the body of a question for a gate."""
    clusters = [f"passage {item // 5}" for item in range(300)]
    units = {"clusters": clusters, "unit": "passage"}
    both = {name: {**sides(name), **units} for name in ("exact_match", "f1")}
    body = {"claim": claim, "gate_id": "A.em_f1", "scores": both, "lineage": LINEAGE}
    return {**body, **changed}


async def test_comparison_and_gate_are_answered_and_listed(http: httpx.AsyncClient) -> None:
    """Both answers have figure and interval; the list holds both with lineage."""
    compared = (await http.post("/compare", json=comparison())).json()
    judged = (await http.post("/gate", json=verdict())).json()
    listed = (await http.get("/claims", params={"limit": 1})).json()
    rest = (await http.get("/claims", params={"after": listed["last_id"]})).json()

    assert compared["object"] == "validation.comparison"
    assert compared["measured"]["estimate"] == pytest.approx(0.05)
    assert compared["measured"]["ci_low"] > 0
    assert compared["claim"]["family"] == 1
    assert (judged["status"], judged["gate_id"], judged["reasons"]) == ("pass", "A.em_f1", [])
    assert (judged["measured"]["unit"], judged["measured"]["units"]) == ("passage", 60)
    assert listed["has_more"]
    assert listed["data"][0]["lineage"] == LINEAGE
    assert [(one["claim"], one["status"]) for one in rest["data"]] == [("g1", "pass")]
    assert rest["data"][0]["id"] == judged["claim"]["id"]


async def test_one_row_of_scores_is_one_seed(http: httpx.AsyncClient) -> None:
    """Plain arrays are accepted as scores without seeds."""
    flat = {name: rows[0] for name, rows in sides().items()}
    answer = (await http.post("/compare", json=comparison(**flat))).json()

    assert (answer["measured"]["seeds"], answer["measured"]["items"]) == (1, 300)


async def test_described_gate_needs_no_baseline(http: httpx.AsyncClient) -> None:
    """A caller's own gate over the mission alone."""
    spec = {
        "id": "canary.plans",
        "metrics": ["plan_steps"],
        "statistic": "share",
        "direction": "higher",
        "target": 1,
        "margin": 0.99,
        "at_most": 3,
        "min_items": 400,
        "min_seeds": 1,
    }
    body = verdict(
        spec=spec, family="plans", scores={"plan_steps": {"mission": [2.0] * 400 + [4.0]}}
    )
    del body["gate_id"]
    comparisons = [{"member": "quality", "metric": "f1"}]
    declared = await http.post(
        "/families", json={"family": "plans", "gates": [spec], "comparisons": comparisons}
    )
    answer = (await http.post("/gate", json=body)).json()

    assert declared.json()["members"] == ["canary.plans", "quality"]
    assert isinstance(declared.json()["declared_unix_ms"], int)
    assert answer["status"] == "fail"
    assert (answer["claim"]["family_name"], answer["claim"]["family"]) == ("plans", 2)
    assert any("does not reach 1" in reason for reason in answer["reasons"])


async def test_correction_of_given_values_and_of_the_family(http: httpx.AsyncClient) -> None:
    """Given p-values come back adjusted; without any, the recorded family does."""
    given = (await http.post("/correct", json={"p_values": {"a": 0.01, "b": 0.04}})).json()
    await http.post("/compare", json=comparison())
    family = (await http.post("/correct", json={})).json()

    assert [(one["name"], one["p_adjusted"]) for one in given["data"]] == [("a", 0.02), ("b", 0.04)]
    assert len(family["data"]) == 1


@pytest.mark.parametrize(
    ("route", "body", "expected"),
    [
        ("/compare", comparison(metric="charm"), (400, "metric", "known")),
        ("/compare", comparison(mission=[0.5]), (400, "scores", "items")),
        ("/compare", comparison(mission=[[0.5, 0.5], [0.5]]), (400, None, "same items")),
        ("/compare", comparison(mission=["x"]), (400, "mission", "number")),
        ("/compare", comparison(lineage={**LINEAGE, "command": ""}), (400, "lineage.command", "1")),
        ("/compare", comparison(colour="red"), (400, "colour", "unknown field")),
        ("/compare", comparison(claim="\ud800"), (400, "claim", "Unicode")),
        (
            "/compare",
            comparison(mission=[1] * 150_000, baseline=[1] * 150_000),
            (400, None, "gRPC"),
        ),
        ("/compare", comparison(mission=[1] * 600_000), (413, None, "limit")),
        ("/gate", verdict(gate_id="Z.luck"), (400, "gate_id", "no gate")),
        ("/gate", verdict(gate_id=None), (400, None, "gate_id or spec")),
        ("/gate", verdict(scores={"f1": sides()}), (400, "scores", "missing: exact_match")),
        ("/compare", comparison(clusters=["a"] * 299, unit="book"), (400, "clusters", "299")),
        ("/compare", comparison(clusters=["a"] * 300), (400, None, "belong together")),
        ("/correct", {"p_values": {"a": 2}}, (400, "p_values.a", "less than")),
        ("/correct", {"alpha": 1.5}, (400, "alpha", "less than")),
    ],
)
async def test_wrong_request_is_named_in_openais_form(
    http: httpx.AsyncClient,
    route: str,
    body: dict[str, Any],
    expected: tuple[int, str | None, str],
) -> None:
    """Whatever is wrong, the error object names the parameter and the limit; nothing is kept."""
    status, param, text = expected
    answer = await http.post(route, content=json.dumps(body), headers=JSON)
    error = answer.json()["error"]

    assert answer.status_code == status, error
    assert str(error["param"] or "").startswith(param or "")
    assert text in error["message"]
    assert (await http.get("/claims")).json()["data"] == []


async def test_nan_is_no_number(http: httpx.AsyncClient) -> None:
    """NaN, which JSON does not know but Python reads, is refused by name."""
    answer = await http.post("/correct", content='{"p_values": {"a": NaN}}', headers=JSON)

    assert answer.status_code == 400
    assert "p_values.a" in answer.json()["error"]["message"]


async def test_used_key_conflicts_and_bad_page_is_named(http: httpx.AsyncClient) -> None:
    """Other content under a used key is 409; a page after nonsense is 400."""
    await http.post("/compare", json=comparison())
    conflict = await http.post("/compare", json=comparison(**sides(gain=0.1)))
    page = await http.get("/claims", params={"after": "x"})

    assert conflict.status_code == 409
    assert (page.status_code, page.json()["error"]["param"]) == (400, "after")


async def test_absent_service_is_503(redis_server: RedisServer, tmp_path: Path) -> None:
    """Without the validation service its routes say so, and when to come back."""
    keys = write_access_keys(tmp_path / "keys")
    settings = GatewaySettings(
        validation_address=f"127.0.0.1:{free_port()}",
        redis_url=redis_server.url,
        keys_file=keys.file,
    )
    app = make_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://gateway/v1/validation",
            headers=keys.headers("operator"),
        ) as client,
    ):
        answer = await client.get("/claims")

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["code"] == "unavailable"

"""Generic mission routes and canaries of a mission that the gateway has no generated code of."""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from bemfleet.fleet.v1 import fleet_pb2 as pb
from bemfleet.fleet.v1 import fleet_pb2_grpc as rpc
from fleet.server import App, start
from fleet.settings import FleetSettings
from fleet.testing import RedisServer

from tests.integration.sample_mission import (
    BROKEN,
    SampleMission,
    sample_descriptors,
    serve_sample,
)
from tests.integration.tracks import ScriptedMission, gateway, mission, socket_of

FLEET = pb.DESCRIPTOR.services_by_name["FleetService"].full_name
ASK = {"head": {"adapter": "qa"}, "prompt": "why?"}


class Routes(rpc.FleetServiceServicer):
    """Route source that streams the table set by the test."""

    def __init__(self) -> None:
        self.table = pb.WatchRoutesResponse()
        self.changed = asyncio.Event()

    async def WatchRoutes(  # noqa: N802 - the name is the proto's
        self,
        request: Any,  # noqa: ARG002
        context: Any,  # noqa: ARG002
    ) -> AsyncIterator[pb.WatchRoutesResponse]:
        """Send the table now and at every change."""
        while True:
            self.changed.clear()
            yield self.table
            await self.changed.wait()


class Sample:
    """A sample mission with a canary, and a client of the gateway in front of them."""

    def __init__(self, folder: Path, routes: Routes, client: httpx.AsyncClient) -> None:
        self.folder, self.client, self.routes = folder, client, routes
        self.stable, self.canary = SampleMission(), SampleMission()

    async def split(self, weight: int, split_model: str = "", **target: str) -> None:
        """Set the mission's route and wait until the gateway has applied it."""
        route = pb.Route(
            mission="sample",
            model=split_model,
            canary=pb.Target(**target),
            weight=weight,
            canary_id=f"sample-{weight}",
        )
        self.routes.table = pb.WatchRoutesResponse(routes=[route])
        self.routes.changed.set()
        applied = f'bem_gateway_canary_weight_percent{{mission="sample"}} {float(weight)}'
        async with asyncio.timeout(30):
            while applied not in (await self.client.get("/metrics")).text:
                continue

    async def call(self, method: str = "Ask", body: Any = ASK, **headers: str) -> httpx.Response:
        """Call a method of the sample mission."""
        path = f"/v1/missions/sample/{method}"
        return await self.client.post(path, json=body, headers=headers)


@pytest.fixture
async def sample(redis_server: RedisServer) -> AsyncIterator[Sample]:
    """A gateway in front of the router, the sample mission and a mission that is away."""
    routes = Routes()  # type: ignore[abstract]

    async def build(_settings: FleetSettings, app: App) -> None:
        rpc.add_FleetServiceServicer_to_server(routes, app.server)
        await app.register_service(FLEET)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        where = FleetSettings(address=socket_of(folder, "fleet"), drain_s=0)
        running = await start(where, build, {})
        missions = {one: socket_of(folder, one) for one in ("router", "sample", "away")}
        async with gateway(
            redis_server.url, missions=missions, fleet_address=running.address
        ) as client:
            made = Sample(folder, routes, client)
            async with (
                mission(socket_of(folder, "router"), ScriptedMission()),
                serve_sample(socket_of(folder, "sample"), made.stable),
                serve_sample(socket_of(folder, "sample-canary"), made.canary),
            ):
                yield made
        await running.stop()


async def test_missions_are_listed_and_a_missing_one_has_a_reason(sample: Sample) -> None:
    """The list has every mission with its methods; readiness needs the OpenAI mission only."""
    listed = (await sample.client.get("/v1/missions")).json()["data"]
    ready = await sample.client.get("/readyz")

    by_id = {one["id"]: one for one in listed}
    methods = {one["name"]: one for one in by_id["sample"]["methods"]}
    assert by_id["away"]["status"] == "unavailable"
    assert by_id["away"]["reason"]
    assert methods["Ask"]["model_field"] == "head.adapter"
    assert methods["Tell"]["server_streaming"]
    assert ready.status_code == 200
    assert ready.json()["missions"] == {
        "router": "serving",
        "sample": "serving",
        "away": "unavailable",
    }


async def test_unary_method_is_json_in_and_json_out(sample: Sample) -> None:
    """Both spellings of a field are accepted; the response has proto names."""
    answer = await sample.call(body={"head": {"adapter": "qa"}, "count": "3"})

    assert answer.status_code == 200
    assert answer.json() == {"model_version": "", "text": "right"}
    assert answer.headers["x-bem-track"] == "stable"
    assert sample.stable.adapters["qa"] == 1


async def test_server_stream_is_one_event_per_message(sample: Sample) -> None:
    """The stream ends with [DONE]; an error in its middle is its last event."""
    sample.stable.replies = [{"text": "one"}, {"text": "two"}]
    whole = (await sample.call("Tell")).text
    sample.stable.replies = [{"text": "one"}, BROKEN]
    broken = (await sample.call("Tell")).text

    events = [line.removeprefix("data: ") for line in whole.splitlines() if line]
    assert [json.loads(event)["text"] for event in events[:-1]] == ["one", "two"]
    assert events[-1] == "[DONE]"
    assert '"error"' in broken
    assert "[DONE]" not in broken


async def test_stream_that_fails_at_once_has_its_http_status(sample: Sample) -> None:
    """An error before the first message is a plain HTTP error."""
    sample.stable.replies = [BROKEN]
    answer = await sample.call("Tell")

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("nobody/Ask", {}, (404, "mission", "away, router, sample")),
        ("sample/Shout", {}, (404, "method", "Ask, Feed, Tell")),
        ("sample/Feed", {}, (400, "method", "gRPC")),
        ("sample/Ask", {"colour": 1}, (400, "colour", "unknown field")),
        ("sample/Ask", {"head": {"colour": 1}}, (400, "head.colour", "unknown field")),
        ("sample/Ask", {"count": "many"}, (400, "count", "many")),
        ("sample/Ask", {"head": {"adapter": 7}}, (400, "head.adapter", "")),
        ("sample/Ask", [], (400, None, "object")),
        ("away/Ask", {}, (503, None, "")),
    ],
)
async def test_bad_call_names_what_is_wrong(
    sample: Sample, path: str, body: Any, expected: tuple[int, str | None, str]
) -> None:
    """Unknown names list those that exist; a wrong field is named by its path."""
    status, param, text = expected
    answer = await sample.client.post(f"/v1/missions/{path}", json=body)
    error = answer.json()["error"]

    assert answer.status_code == status, error
    assert error["param"] == param
    assert text in error["message"]


async def test_other_content_types_are_refused(sample: Sample) -> None:
    """A body that a web page could send across origins is 415."""
    answer = await sample.client.post("/v1/missions/sample/Ask", content="{}")

    assert answer.status_code == 415


async def test_adapter_canary_renames_the_field_of_any_method(sample: Sample) -> None:
    """The canary gets its adapter's name in the nested field; other adapters are not split."""
    await sample.split(100, "qa", model="qa-v2")
    split = await sample.call()
    other = await sample.call(body={"head": {"adapter": "other"}})

    assert split.headers["x-bem-track"] == "canary"
    assert other.headers["x-bem-track"] == "stable"
    assert sample.stable.adapters == {"qa-v2": 1, "other": 1}


async def test_pod_canary_answers_every_method(sample: Sample) -> None:
    """A canary with an address gets unary and streaming calls, whatever model they name."""
    sample.canary.replies = [{"text": "new"}]
    await sample.split(99, address=socket_of(sample.folder, "sample-canary"))
    answers = [
        await sample.call(method, **{"x-session-id": f"s{number}"})
        for method in ("Ask", "Tell")
        for number in range(10)
    ]

    assert {answer.headers["x-bem-track"] for answer in answers} == {"canary"}
    assert all('"new"' in answer.text for answer in answers)


@pytest.mark.parametrize("method", ["Ask", "Tell"])
async def test_stable_takes_over_before_the_first_text(sample: Sample, method: str) -> None:
    """A label is no text: stable replaces a canary that has only sent its version."""
    sample.canary.replies = [{"model_version": "new"}, BROKEN] if method == "Tell" else [BROKEN]
    await sample.split(98, address=socket_of(sample.folder, "sample-canary"))
    answer = await sample.call(method, **{"x-session-id": "s"})

    assert answer.status_code == 200
    assert '"right"' in answer.text
    assert '"new"' not in answer.text
    assert answer.headers["x-bem-track"] == "stable"


async def test_error_after_the_first_text_is_not_hidden(sample: Sample) -> None:
    """A stream that has begun on the canary ends with its error; stable is not asked."""
    sample.canary.replies = [{"text": "half"}, BROKEN]
    await sample.split(97, address=socket_of(sample.folder, "sample-canary"))
    answer = await sample.call("Tell", **{"x-session-id": "s"})

    assert '"half"' in answer.text
    assert '"error"' in answer.text
    assert sample.stable.adapters.total() == 0


async def test_methods_of_a_restarted_mission_are_found(sample: Sample) -> None:
    """A method that a newer version of the mission serves is callable without a restart here."""
    address = socket_of(sample.folder, "away")
    async with serve_sample(address, SampleMission()):
        before = await sample.client.post("/v1/missions/away/Whisper", json={})
    async with serve_sample(address, SampleMission(sample_descriptors("Whisper"))):
        async with asyncio.timeout(30):
            while True:
                after = await sample.client.post("/v1/missions/away/Whisper", json={})
                if after.status_code == 200:
                    break
                await asyncio.sleep(0.1)  # another server gives no event to wait for

    assert before.status_code in (404, 503)
    assert after.json()["text"] == "right"

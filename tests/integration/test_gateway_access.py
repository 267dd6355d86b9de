"""Access control of the gateway: each route by role, wrong keys, limits by key, and rotation."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from bem_fleet.services.gateway.app import make_app
from bem_fleet.services.gateway.route_roles import listed_routes
from bem_fleet.services.gateway.settings import GatewaySettings
from bemfleet.router.v1 import router_pb2 as pb
from fleet.access.keys import KeysFile, read_keys
from fleet.access.keys_editing import rotated, write_keys
from fleet.access.own_key import bearer
from fleet.access.principal import Role
from fleet.testing import RedisServer

from tests.integration.sample_mission import SampleMission, sample_descriptors, serve_sample
from tests.integration.tracks import Script, ScriptedMission, gateway, mission, socket_of
from tests.integration.validations import validation
from tests.support.access_keys import AccessKeys, write_access_keys
from tests.support.waiting import eventually

ENTRIES: tuple[dict[str, Any], ...] = (
    {"name": "web", "tenant": "acme"},
    {"name": "slow", "limits": {"requests_per_minute": 3}},
    {"name": "single", "limits": {"concurrent": 1}},
    {"name": "counted", "limits": {"tokens_per_minute": 30}},
)
CALLERS = {None: Role.OPEN, "web": Role.USER, "service": Role.SERVICE, "operator": Role.OPERATOR}
CHAT = {"model": "qa", "messages": [{"role": "user", "content": "what?"}]}


class Costly(ScriptedMission):
    """Mission whose answers cost tokens."""

    async def Complete(self, request: pb.CompleteRequest, context: Any) -> pb.CompleteResponse:  # noqa: N802
        """Answer with a usage of 25 tokens."""
        answer = await super().Complete(request, context)
        answer.usage.prompt_tokens, answer.usage.completion_tokens = 20, 5
        return answer


class Door:
    """A gateway with keys, in front of two missions and validation.

    Attributes:
        http: Client of the gateway.
        keys: Keys that the gateway accepts.
        router: Mission behind the OpenAI routes.
    """

    def __init__(self, http: httpx.AsyncClient, keys: AccessKeys, router: ScriptedMission) -> None:
        self.http, self.keys, self.router = http, keys, router

    def headers(self, name: str | None) -> dict[str, str]:
        """Return the headers of a request with a key; None for none."""
        return self.keys.headers(name) if name else {}

    async def request(self, method: str, path: str, headers: dict[str, str]) -> httpx.Response:
        """Send a request; of a stream without an end only the head is read."""
        async with self.http.stream(method, path, headers=headers, json={}) as answer:
            if "event-stream" not in answer.headers.get("content-type", ""):
                await answer.aread()
        return answer

    async def chat(self, name: str | None, **more: Any) -> httpx.Response:
        """Send a chat request with a key."""
        headers = self.headers(name)
        return await self.http.post("/v1/chat/completions", json=CHAT | more, headers=headers)


@pytest.fixture
async def door(tmp_path: Path, redis_server: RedisServer) -> AsyncIterator[Door]:
    """The gateway and what is behind it."""
    keys = write_access_keys(tmp_path / "keys", *ENTRIES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        router = Costly()
        sample = SampleMission(sample_descriptors(without_role="Steer"))
        async with (
            validation(folder, redis_server) as (_, judge),
            mission(socket_of(folder, "router"), router),
            serve_sample(socket_of(folder, "sample"), sample),
            gateway(
                redis_server.url,
                missions={one: socket_of(folder, one) for one in ("router", "sample")},
                validation_address=judge.address,
                keys_file=keys.file,
                service_key_file=keys.path("service"),
            ) as http,
        ):
            yield Door(http, keys, router)


def routes() -> Iterator[tuple[str, str, Role]]:
    """Yield method, path and role of every route, with its parameters filled in."""
    for method, path, role in listed_routes(make_app(GatewaySettings()).routes):
        filled = path.replace("{mission}", "sample").replace("{method}", "Ask")
        yield method, filled.replace("{name}", "base"), role.role


async def test_every_route_admits_its_role_and_no_smaller_one(door: Door) -> None:
    """No key where one is needed is 401, a small role 403; both in OpenAI's form."""
    wrong = []
    for method, path, needed in routes():
        for name, role in CALLERS.items():
            answer = await door.request(method, path, door.headers(name))
            expected = 401 if name is None else 403
            refused = answer.status_code in (401, 403)
            if refused if role >= needed else answer.status_code != expected:
                wrong.append(f"{method} {path} by {name}: {answer.status_code}")
            elif refused:
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

    assert wrong == []


@pytest.mark.parametrize("value", ["Bearer wrong", "Basic d2ViOng=", "Bearer bem_" + "x" * 43])
async def test_wrong_key_is_401_on_every_route(door: Door, value: str) -> None:
    """The answer says how to send one; probes of health stay open."""
    for method, path, needed in routes():
        answer = await door.request(method, path, {"Authorization": value})
        if needed is Role.OPEN:
            assert answer.status_code not in (401, 403), path
        else:
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["error"]["code"] == "invalid_api_key"


async def test_unknown_route_is_404_for_everybody(door: Door) -> None:
    """Whether a path exists is no secret: the schema is public."""
    assert (await door.http.get("/v1/nothing")).status_code == 404
    assert (await door.http.delete("/v1/chat/completions")).status_code == 405


async def test_generic_route_takes_the_methods_role(door: Door) -> None:
    """A method without a role is an operator's, and no body is needed to be refused."""
    path = "/v1/missions/sample"
    codes = {
        (method, name): (
            await door.http.post(f"{path}/{method}", json={}, headers=door.headers(name))
        ).status_code
        for method in ("Ask", "Steer")
        for name in ("web", "service", "operator")
    }

    assert codes == {
        ("Ask", "web"): 200,
        ("Ask", "service"): 200,
        ("Ask", "operator"): 200,
        ("Steer", "web"): 403,
        ("Steer", "service"): 403,
        ("Steer", "operator"): 200,
    }


async def test_requests_of_a_key_are_limited(door: Door) -> None:
    """The fourth request of the minute is 429 with the delay; other keys are not touched."""
    codes = [(await door.chat("slow")).status_code for _ in range(3)]
    refused = await door.chat("slow")

    assert codes == [200, 200, 200]
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 20
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert (await door.chat("web")).status_code == 200


async def test_requests_in_flight_of_a_key_are_limited(door: Door) -> None:
    """A second request waits for nothing: it is refused until the first has ended."""
    door.router.scripts[""] = Script(delay_s=0.3)
    first = asyncio.create_task(door.chat("single", stream=True))
    await eventually(door.router.asked.total, 10)
    second = await door.chat("single")
    ended = await first
    third = await door.chat("single")

    assert (second.status_code, ended.status_code, third.status_code) == (429, 200, 200)


async def test_tokens_of_a_key_are_limited(door: Door) -> None:
    """Answers are charged after they were made: the third request finds the key in debt."""
    codes = [(await door.chat("counted", n=1)).status_code for _ in range(3)]

    assert codes == [200, 200, 429]


async def test_keys_rotate_without_a_restart(door: Door) -> None:
    """The new secret is valid within a second; a broken file changes nothing."""
    file, new = rotated(read_keys(door.keys.file), "web")
    write_keys(door.keys.file, file)
    async with asyncio.timeout(10):
        while True:
            headers = {"Authorization": bearer(new)}
            answer = await door.http.get("/v1/models", headers=headers)
            if answer.status_code == 200:
                break
            await asyncio.sleep(0.1)  # the file is checked once a second
    door.keys.file.write_text("keys: [")
    await asyncio.sleep(1.2)

    assert (await door.http.get("/v1/models", headers=headers)).status_code == 200
    assert (await door.chat("web")).status_code == 200
    page = (await door.http.get("/metrics")).text
    assert f'bem_access_keys_file_valid{{path="{door.keys.file}"}} 0.0' in page


async def test_users_are_open_on_loopback_without_user_keys(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """Operators' routes need the operator's key all the same, and a wrong key is still 401."""
    keys = write_access_keys(tmp_path / "keys")
    with tempfile.TemporaryDirectory() as name:
        address = socket_of(Path(name), "router")
        async with (
            mission(address, ScriptedMission()),
            gateway(redis_server.url, missions={"router": address}, keys_file=keys.file) as http,
        ):
            codes = [
                (
                    await http.get(path, headers={"Authorization": value} if value else {})
                ).status_code
                for path in ("/v1/models", "/v1/validation/claims")
                for value in ("", "Bearer none", "Bearer wrong")
            ]

    assert codes == [200, 200, 401, 401, 401, 401]
    assert KeysFile().anonymous.users == "loopback"

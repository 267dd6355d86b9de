"""Adapter routes of the gateway in vLLM's form, in front of a mission on real sockets."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fleet.testing import RedisServer

from tests.integration.tracks import Script, ScriptedMission, gateway, mission, socket_of
from tests.support.access_keys import write_access_keys

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


@pytest.fixture
async def client(tmp_path: Path, redis_server: RedisServer) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the operator's key of a gateway whose mission has the adapter ``alpha``."""
    address, keys = socket_of(tmp_path, "router"), write_access_keys(tmp_path / "keys")
    scripted = ScriptedMission({"": Script(), "alpha": Script()})
    async with (
        mission(address, scripted),
        gateway(redis_server.url, missions={"router": address}, keys_file=keys.file) as made,
    ):
        made.headers.update(keys.headers("operator"))
        yield made


async def names(client: httpx.AsyncClient) -> list[str]:
    """Return the names of the models."""
    listed = (await client.get("/v1/models")).json()
    return [model["id"] for model in listed["data"]]


async def test_adapter_is_loaded_and_unloaded_as_by_vllm(client: httpx.AsyncClient) -> None:
    """Request and response are vLLM's; the path may be any that ends in the name."""
    loaded = await client.post(LOAD, json={"lora_name": "beta", "lora_path": "/data/loras/beta"})
    present = await names(client)
    removed = await client.post(UNLOAD, json={"lora_name": "beta", "lora_int_id": 3})

    assert (loaded.status_code, removed.status_code) == (200, 200)
    assert loaded.text == "Success: LoRA adapter 'beta' added successfully."
    assert removed.text == "Success: LoRA adapter 'beta' removed successfully."
    assert present == ["base", "alpha", "beta"]
    assert await names(client) == ["base", "alpha"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"lora_name": "beta"}, "lora_path"),
        ({"lora_name": "beta", "lora_path": ""}, "lora_path"),
        ({"lora_name": "beta", "lora_path": "/data/gamma"}, "lora_path"),
        ({"lora_name": "beta", "lora_path": "beta/.."}, "lora_path"),
        ({"lora_name": 5, "lora_path": "5"}, "lora_name"),
        ({"lora_name": "alpha", "lora_path": "alpha"}, "lora_name"),
        ({"lora_name": "beta", "lora_path": "beta", "more": 1}, "more"),
    ],
)
async def test_wrong_request_is_named(
    client: httpx.AsyncClient, body: dict[str, Any], param: str
) -> None:
    """A missing field, another folder, a name that is loaded already, an unknown field."""
    refused = await client.post(LOAD, json=body)

    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param
    assert await names(client) == ["base", "alpha"]


async def test_loaded_adapter_is_replaced_on_request(client: httpx.AsyncClient) -> None:
    """``load_inplace`` is vLLM's word for a reload."""
    body = {"lora_name": "alpha", "lora_path": "alpha", "load_inplace": True}

    assert (await client.post(LOAD, json=body)).status_code == 200

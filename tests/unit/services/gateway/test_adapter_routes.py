"""Requests of the adapter routes; calls over real sockets are in tests/integration."""

import pytest
from bem_fleet.services.gateway.adapter_routes import LoadLoraRequest, UnloadLoraRequest, routes
from pydantic import ValidationError


def test_paths_and_fields_are_vllms() -> None:
    """A client of vLLM needs no change."""
    paths = {route.path for route in routes.routes}  # type: ignore[attr-defined]

    assert paths == {"/v1/load_lora_adapter", "/v1/unload_lora_adapter"}
    assert not LoadLoraRequest(lora_name="a", lora_path="/x/a").load_inplace
    assert UnloadLoraRequest(lora_name="a", lora_int_id=1).lora_int_id == 1
    with pytest.raises(ValidationError, match="lora_path"):
        LoadLoraRequest.model_validate({"lora_name": "a"})

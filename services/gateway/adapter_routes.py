"""Adapter routes in vLLM's form: load and unload an adapter of the OpenAI mission at run time.

``lora_path`` is never read as a path: a mission loads from its own adapter folder by name.
"""

from pathlib import PurePosixPath

from bem_fleet.services.gateway.body_route import JsonBodyRoute
from bem_fleet.services.gateway.errors import ApiError
from bem_fleet.services.gateway.route_roles import requires
from bem_fleet.services.gateway.state import state_of
from bemfleet.mission.v1 import mission_pb2
from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from fleet.access import Role
from fleet.clients import outgoing_metadata
from pydantic import BaseModel, ConfigDict, Field

routes = APIRouter(prefix="/v1", route_class=JsonBodyRoute)
_TIMEOUT_S = 60.0


class LoadLoraRequest(BaseModel):
    """vLLM's request to load an adapter.

    Attributes:
        lora_name: Name of the adapter and of its folder.
        lora_path: Path of the folder; its last part must be the name.
        load_inplace: Whether a loaded adapter of this name is replaced.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    lora_name: str = Field(min_length=1, max_length=64)
    lora_path: str = Field(min_length=1, max_length=4096)
    load_inplace: bool = False


class UnloadLoraRequest(BaseModel):
    """vLLM's request to unload an adapter.

    Attributes:
        lora_name: Name of the adapter.
        lora_int_id: vLLM's own number of the adapter; ignored.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    lora_name: str = Field(min_length=1, max_length=64)
    lora_int_id: int | None = None


# Both routes are an operator's: they change what every client is served.
@routes.post("/load_lora_adapter")
@requires(Role.OPERATOR)
async def load_lora_adapter(request: Request, body: LoadLoraRequest) -> Response:
    """Load an adapter from the mission's adapter folder; 400 if the name is loaded already."""
    if PurePosixPath(body.lora_path).name != body.lora_name:
        raise ApiError(
            400,
            f"lora_path: {body.lora_path[:80]!r} does not end in {body.lora_name[:64]!r}; adapters "
            "are loaded by name from the mission's adapter folder; put the folder there",
            code="invalid_value",
            param="lora_path",
        )
    contract, metadata = state_of(request).openai_mission.contract, outgoing_metadata()
    if not body.load_inplace:
        listed = await contract.ListAdapters(
            mission_pb2.ListAdaptersRequest(), timeout=_TIMEOUT_S, metadata=metadata
        )
        if any(one.name == body.lora_name for one in listed.adapters):
            raise ApiError(
                400,
                f"lora_name: {body.lora_name!r} is loaded already; unload it first, or set "
                "load_inplace",
                code="invalid_value",
                param="lora_name",
            )
    await contract.LoadAdapter(
        mission_pb2.LoadAdapterRequest(name=body.lora_name), timeout=_TIMEOUT_S, metadata=metadata
    )
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")


@routes.post("/unload_lora_adapter")
@requires(Role.OPERATOR)
async def unload_lora_adapter(request: Request, body: UnloadLoraRequest) -> Response:
    """Unload an adapter; requests that use it finish first. 404 if it is not loaded."""
    await state_of(request).openai_mission.contract.UnloadAdapter(
        mission_pb2.UnloadAdapterRequest(name=body.lora_name),
        timeout=_TIMEOUT_S,
        metadata=outgoing_metadata(),
    )
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

"""Base servicer of the mission contract."""

from types import SimpleNamespace
from typing import Any

import pytest
from bemfleet.mission.v1 import mission_pb2 as pb
from bemfleet.router.v1 import router_pb2
from fleet.errors import InvalidArgumentError
from fleet.mission import AdapterInfo, MissionServicer, RejectedAdapter, describe_methods

ROUTER = router_pb2.DESCRIPTOR.services_by_name["RouterService"]
CONTEXT: Any = None


def servicer() -> MissionServicer:
    """Return the contract of a mission with one adapter."""
    host: Any = SimpleNamespace(
        base_model=AdapterInfo("base", "sha", base=True),
        context_tokens=2048,
        loaded_adapters=lambda: [AdapterInfo("qa", "v1", rank=8, projection="applied")],
        rejected_adapters=lambda: [RejectedAdapter("bad", "card.json is not JSON")],
        planner=AdapterInfo("router", "p1"),
        warnings=["safety adapter: none is loaded"],
    )
    return MissionServicer("router", ROUTER, lambda: host)


def test_methods_are_described_from_their_descriptors() -> None:
    """Streaming, the field that names the model and the roles of text come from the proto."""
    generate, complete = describe_methods(ROUTER)[:2]

    assert (generate.name, generate.server_streaming) == (f"/{ROUTER.full_name}/Generate", True)
    assert (generate.model_field, complete.model_field) == ("model", "request.model")
    assert "bemfleet.router.v1.GenerateResponse.text: TEXT_ROLE_OUTPUT_DELTA" in list(
        generate.text_fields
    )


async def test_adapters_are_listed_after_the_base_model() -> None:
    """The first entry is the base model."""
    listed = await servicer().ListAdapters(pb.ListAdaptersRequest(), CONTEXT)

    assert [(one.name, one.base, one.rank) for one in listed.adapters] == [
        ("base", True, 0),
        ("qa", False, 8),
    ]
    assert listed.context_tokens == 2048
    assert (listed.planner.name, listed.planner.version) == ("router", "p1")
    assert listed.adapters[1].projection == pb.PROJECTION_APPLIED


async def test_what_is_not_served_is_said_with_its_reason() -> None:
    """Rejected folders are listed, and the description names what the mission serves without."""
    listed = await servicer().ListAdapters(pb.ListAdaptersRequest(), CONTEXT)
    described = await servicer().Describe(pb.DescribeRequest(), CONTEXT)

    assert [(one.name, one.reason) for one in listed.rejected] == [("bad", "card.json is not JSON")]
    assert list(described.warnings) == ["safety adapter: none is loaded"]


@pytest.mark.parametrize("tokens", [0, 257])
async def test_probe_beyond_its_limits_names_the_field(tokens: int) -> None:
    """The limits of a probe are 1 and 256 tokens."""
    with pytest.raises(InvalidArgumentError, match="max_tokens"):
        await servicer().Probe(pb.ProbeRequest(max_tokens=tokens), CONTEXT)

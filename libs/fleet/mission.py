"""Mission contract: the base servicer of ``bemfleet.mission.v1.MissionService``.

Every mission serves it besides its own service. The mission supplies a ``MissionHost``; this module
translates messages and derives the description from the descriptors of the mission's own service.
"""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bemfleet.common.v1 import text_pb2
from bemfleet.mission.v1 import mission_pb2 as pb
from bemfleet.mission.v1 import mission_pb2_grpc as rpc
from google.protobuf.descriptor import Descriptor, ServiceDescriptor
from grpc import aio

from fleet.errors import InvalidArgumentError
from fleet.text_roles import model_field_path, role_of, text_fields
from fleet.version import VERSION

SERVICE = pb.DESCRIPTOR.services_by_name["MissionService"].full_name
_MAX_PROBE_TOKENS = 256
_PROBE_TOKENS = 64
_PROJECTIONS = {
    "none": pb.PROJECTION_NONE,
    "applied": pb.PROJECTION_APPLIED,
    "exact": pb.PROJECTION_EXACT,
}


@dataclass(frozen=True)
class AdapterInfo:
    """A model that requests can name.

    Attributes:
        name: Name in requests.
        version: Digest of the artifact, or of the base model's weights.
        rank: Adapter rank; 0 for the base model.
        loaded_unix_s: Time of loading, in seconds since the epoch.
        base: Whether it is the base model.
        weights: Weight format of the base model, such as ``int8``; empty for adapters.
        projection: What the safety basis does to the adapter: ``none``, ``applied`` or ``exact``.
        projection_logit_difference: Largest logit difference of the projection that the import
            measured; 0 if it measured none.
    """

    name: str
    version: str
    rank: int = 0
    loaded_unix_s: int = 0
    base: bool = False
    weights: str = ""
    projection: str = "none"
    projection_logit_difference: float = 0.0


@dataclass(frozen=True)
class RejectedAdapter:
    """A folder of the adapter folder that is not served.

    Attributes:
        name: Name of the folder.
        reason: What is wrong with it and what to do.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class ProbeAnswer:
    """Answer to a probe.

    Attributes:
        text: Complete answer.
        model_version: Digest of base model and adapter version that answered.
    """

    text: str
    model_version: str


class MissionHost(Protocol):
    """Base model, adapters and probes of a mission, as the base servicer needs them."""

    @property
    def base_model(self) -> AdapterInfo:
        """Base model of the mission."""
        ...

    @property
    def context_tokens(self) -> int:
        """Longest prompt and output together, in tokens."""
        ...

    @property
    def warnings(self) -> Sequence[str]:
        """What the mission serves without, with the reason; empty if nothing is missing."""
        ...

    @property
    def planner(self) -> AdapterInfo | None:
        """Model that plans over the adapters; None if the mission has none."""
        ...

    def loaded_adapters(self) -> Sequence[AdapterInfo]:
        """Return the loaded adapters, sorted by name."""
        ...

    def rejected_adapters(self) -> Sequence[RejectedAdapter]:
        """Return the folders that are not served, sorted by name."""
        ...

    async def load(self, name: str) -> AdapterInfo:
        """Load an adapter of the adapter folder."""
        ...

    async def unload(self, name: str) -> None:
        """Unload an adapter; requests that use it finish first."""
        ...

    async def probe(self, model: str, prompt: str, max_tokens: int) -> ProbeAnswer:
        """Answer one user message greedily."""
        ...


class MissionServicer(rpc.MissionServiceServicer):
    """Serves the contract for one mission.

    Args:
        name: Name of the mission: its folder and its proto package.
        service: Descriptor of the mission's own service.
        host: Returns the mission; raises ``UnavailableError`` while it loads.
    """

    def __init__(
        self, name: str, service: ServiceDescriptor, host: Callable[[], MissionHost]
    ) -> None:
        self._name, self._service, self._host = name, service, host

    async def Describe(
        self,
        request: pb.DescribeRequest,  # noqa: ARG002 - the signature is gRPC's
        context: aio.ServicerContext[Any, Any],  # noqa: ARG002
    ) -> pb.DescribeResponse:
        """Describe the mission and the methods of its own service."""
        host = self._host()
        base = host.base_model
        return pb.DescribeResponse(
            name=self._name,
            version=VERSION,
            base_model=base.name,
            base_model_digest=base.version,
            service=self._service.full_name,
            methods=describe_methods(self._service),
            weights=base.weights,
            warnings=host.warnings,
        )

    async def ListAdapters(
        self,
        request: pb.ListAdaptersRequest,  # noqa: ARG002
        context: aio.ServicerContext[Any, Any],  # noqa: ARG002
    ) -> pb.ListAdaptersResponse:
        """List the base model and the loaded adapters."""
        host = self._host()
        models = [host.base_model, *host.loaded_adapters()]
        return pb.ListAdaptersResponse(
            adapters=[_adapter_message(model) for model in models],
            context_tokens=host.context_tokens,
            rejected=[
                pb.RejectedAdapter(name=one.name, reason=one.reason)
                for one in host.rejected_adapters()
            ],
            planner=_adapter_message(host.planner) if host.planner else None,
        )

    async def LoadAdapter(
        self,
        request: pb.LoadAdapterRequest,
        context: aio.ServicerContext[Any, Any],  # noqa: ARG002
    ) -> pb.LoadAdapterResponse:
        """Load an adapter of the adapter folder."""
        return pb.LoadAdapterResponse(
            adapter=_adapter_message(await self._host().load(request.name))
        )

    async def UnloadAdapter(
        self,
        request: pb.UnloadAdapterRequest,
        context: aio.ServicerContext[Any, Any],  # noqa: ARG002
    ) -> pb.UnloadAdapterResponse:
        """Unload an adapter."""
        await self._host().unload(request.name)
        return pb.UnloadAdapterResponse()

    async def Probe(
        self,
        request: pb.ProbeRequest,
        context: aio.ServicerContext[Any, Any],  # noqa: ARG002
    ) -> pb.ProbeResponse:
        """Answer one prompt greedily."""
        tokens = request.max_tokens if request.HasField("max_tokens") else _PROBE_TOKENS
        if not 1 <= tokens <= _MAX_PROBE_TOKENS:
            raise InvalidArgumentError(
                "max_tokens", f"{tokens} is out of range; the limits are 1 and {_MAX_PROBE_TOKENS}"
            )
        answer = await self._host().probe(request.model, request.prompt, tokens)
        return pb.ProbeResponse(text=answer.text, model_version=answer.model_version)


def describe_methods(service: ServiceDescriptor) -> list[pb.MethodDescription]:
    """Return a description of every method, from its descriptor and field options."""
    return [
        pb.MethodDescription(
            name=f"/{service.full_name}/{method.name}",
            client_streaming=method.client_streaming,
            server_streaming=method.server_streaming,
            model_field=model_field_path(method.input_type),
            text_fields=[
                *_text_roles(method.input_type),
                *_text_roles(method.output_type),
            ],
        )
        for method in service.methods
    ]


def _text_roles(message: Descriptor) -> Iterator[str]:
    for field in text_fields(message):
        yield f"{field.full_name}: {text_pb2.TextRole.Name(role_of(field))}"


def _adapter_message(adapter: AdapterInfo) -> pb.Adapter:
    return pb.Adapter(
        name=adapter.name,
        version=adapter.version,
        base=adapter.base,
        rank=adapter.rank,
        loaded_unix_s=adapter.loaded_unix_s,
        projection=_PROJECTIONS[adapter.projection],
        projection_logit_difference=adapter.projection_logit_difference,
    )

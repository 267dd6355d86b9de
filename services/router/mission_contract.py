"""Mission contract of the router: adapters and probes for ``fleet.mission.MissionServicer``."""

from collections.abc import Sequence

from bem_fleet.services.router.model_host import ModelHost
from bem_fleet.services.router.planned_calls import PlannedCalls
from bem_fleet.serving.engine_host import adapter_info
from bemfleet.router.v1 import router_pb2 as pb
from fleet.mission import AdapterInfo, ProbeAnswer, RejectedAdapter


class RouterContract:
    """Implements the mission contract on a model host.

    Args:
        host: The loaded model.
        planned: Planned calls of the model; None if it is served without a planner.
    """

    def __init__(self, host: ModelHost, planned: PlannedCalls | None = None) -> None:
        self._host = host
        self._planned = planned

    @property
    def base_model(self) -> AdapterInfo:
        """The base model."""
        backbone, started = self._host.backbone, self._host.started_unix_s
        return AdapterInfo(
            backbone.name,
            backbone.digest,
            loaded_unix_s=started,
            base=True,
            weights=backbone.weight_format,
        )

    @property
    def context_tokens(self) -> int:
        """Limit of prompt and output together, in tokens."""
        return self._host.context_tokens

    @property
    def planner(self) -> AdapterInfo | None:
        """Model that plans over the adapters."""
        return self._planned.planner if self._planned else None

    def loaded_adapters(self) -> list[AdapterInfo]:
        """Return the loaded adapters, sorted by name."""
        return [adapter_info(adapter) for adapter in self._host.adapters()]

    def rejected_adapters(self) -> Sequence[RejectedAdapter]:
        """Return the folders that are not served, sorted by name."""
        return self._host.rejected_adapters()

    @property
    def warnings(self) -> Sequence[str]:
        """What the mission serves without, with the reason."""
        return (*self._host.warnings, *(self._planned.warnings if self._planned else ()))

    async def load(self, name: str) -> AdapterInfo:
        """Load an adapter of the adapter folder; errors as in ``ModelHost.load_adapter``."""
        return adapter_info(await self._host.load_adapter(name))

    async def unload(self, name: str) -> None:
        """Unload an adapter; requests that use it finish first."""
        await self._host.unload_adapter(name)

    async def probe(self, model: str, prompt: str, max_tokens: int) -> ProbeAnswer:
        """Answer one user message greedily."""
        request = pb.GenerateRequest(
            model=model, sampling=pb.Sampling(temperature=0), max_tokens=max_tokens
        )
        if self._host.backbone.tokenizer.chat_template:
            request.chat.messages.add(role="user", content=prompt)
        else:  # a model without a template continues the prompt as it is
            request.prompt = prompt
        output = await self._host.complete(self._host.parse(request, deadline=None))
        return ProbeAnswer(output.text, self._host.model_version(output.adapter_version))

"""Mission contract of the router: adapters and probes for ``fleet.mission.MissionServicer``."""

from bem.adapters.bank import LoadedAdapter
from bem_fleet.services.router.model_host import ModelHost
from bemfleet.router.v1 import router_pb2 as pb
from fleet.mission import AdapterInfo, ProbeAnswer


class RouterContract:
    """Implements the mission contract on a model host.

    Args:
        host: The loaded model.
    """

    def __init__(self, host: ModelHost) -> None:
        self._host = host

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

    def loaded_adapters(self) -> list[AdapterInfo]:
        """Return the loaded adapters, sorted by name."""
        return [_info(adapter) for adapter in self._host.adapters()]

    async def load(self, name: str) -> AdapterInfo:
        """Load an adapter of the adapter folder; errors as in ``ModelHost.load_adapter``."""
        return _info(await self._host.load_adapter(name))

    async def unload(self, name: str) -> None:
        """Unload an adapter; requests that use it finish first."""
        await self._host.unload_adapter(name)

    async def probe(self, model: str, prompt: str, max_tokens: int) -> ProbeAnswer:
        """Answer one user message greedily."""
        request = pb.GenerateRequest(
            model=model,
            chat=pb.ChatPrompt(messages=[pb.ChatMessage(role="user", content=prompt)]),
            sampling=pb.Sampling(temperature=0),
            max_tokens=max_tokens,
        )
        output = await self._host.complete(self._host.parse(request, deadline=None))
        return ProbeAnswer(output.text, self._host.model_version(output.adapter_version))


def _info(adapter: LoadedAdapter) -> AdapterInfo:
    return AdapterInfo(adapter.name, adapter.version, adapter.rank, int(adapter.loaded_unix_s))

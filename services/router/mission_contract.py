"""Mission contract of the router: adapters and probes for ``fleet.mission.MissionServicer``."""

from bem.adapters.bank import LoadedAdapter
from bem_fleet.services.router.model_host import Mission
from bem_fleet.services.router.request_parsing import engine_request
from bemfleet.router.v1 import router_pb2 as pb
from fleet.mission import AdapterInfo, ProbeAnswer


class RouterContract:
    """What the mission contract asks of a loaded router.

    Args:
        mission: The loaded model and its engine.
    """

    def __init__(self, mission: Mission) -> None:
        self._mission = mission

    @property
    def base_model(self) -> AdapterInfo:
        """The base model."""
        backbone, began = self._mission.backbone, self._mission.started_unix_s
        return AdapterInfo(backbone.name, backbone.digest, loaded_unix_s=began, base=True)

    @property
    def context_tokens(self) -> int:
        """Longest prompt and output together, in tokens."""
        return self._mission.context_tokens

    def loaded_adapters(self) -> list[AdapterInfo]:
        """Return the loaded adapters, sorted by name."""
        return [_info(adapter) for adapter in self._mission.worker.adapters()]

    async def load(self, name: str) -> AdapterInfo:
        """Load an adapter of the adapter folder; errors as in ``Mission.load_adapter``."""
        return _info(await self._mission.load_adapter(name))

    async def unload(self, name: str) -> None:
        """Unload an adapter; requests that use it finish first."""
        await self._mission.unload_adapter(name)

    async def probe(self, model: str, prompt: str, max_tokens: int) -> ProbeAnswer:
        """Answer one user message greedily."""
        request = pb.GenerateRequest(
            model=model,
            chat=pb.ChatPrompt(messages=[pb.ChatMessage(role="user", content=prompt)]),
            sampling=pb.Sampling(temperature=0),
            max_tokens=max_tokens,
        )
        version = self._mission.version_of(self._mission.adapter_of(model))
        answer = await self._mission.complete(engine_request(self._mission, request, None))
        return ProbeAnswer(answer.text, version)


def _info(adapter: LoadedAdapter) -> AdapterInfo:
    return AdapterInfo(adapter.name, adapter.version, adapter.rank, int(adapter.loaded_unix_s))

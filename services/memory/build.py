"""Assembly of the memory mission."""

from bem.memory import EmbeddingStates, MemoryEncoder, MemoryModules, SlotTokenizer
from bem.memory.artifact import CARD_FILE, load_modules
from bem_fleet.services.memory.answering import MemoryHolder, MemoryHost
from bem_fleet.services.memory.metrics import observe_engine
from bem_fleet.services.memory.servicer import MemoryServicer
from bem_fleet.services.memory.session_cache import SessionCache
from bem_fleet.services.memory.session_store import SessionStore
from bem_fleet.services.memory.settings import MemorySettings
from bem_fleet.serving import EngineHost, HostHolder, build_mission
from bemfleet.memory.v1 import memory_pb2, memory_pb2_grpc
from fleet import logs
from fleet.server import App

_LOG = logs.get("memory")
_DIGEST_CHARS = 16
UNTRAINED = "untrained"


async def build(settings: MemorySettings, app: App) -> None:
    """Serve the mission's own service and the mission contract."""
    holder, memory = HostHolder(), MemoryHolder()
    store = SessionStore(
        settings.redis_url,
        ttl_s=settings.session_ttl_s,
        max_sessions=settings.max_sessions,
        timeout_s=settings.redis_timeout_s,
    )
    app.on_stop(store.close)
    servicer = MemoryServicer(memory, store, settings)
    memory_pb2_grpc.add_MemoryServiceServicer_to_server(servicer, app.server)

    def on_loaded(host: EngineHost) -> None:
        observe_engine(host)
        memory.host = open_memory(host, store, settings)

    await build_mission(
        app,
        settings,
        name="memory",
        service=memory_pb2.DESCRIPTOR.services_by_name["MemoryService"],
        holder=holder,
        on_loaded=on_loaded,
    )


def open_memory(host: EngineHost, store: SessionStore, settings: MemorySettings) -> MemoryHost:
    """Return the memory host of a loaded model; a warning of the host tells what is missing.

    Raises:
        UnsupportedBackboneError: The model's tokens do not fit slots.
        ArtifactFormatError: The memory modules are malformed.
        ArtifactTamperedError: The memory modules were edited.
        BaseMismatchError: The memory modules belong to another base model.
    """
    backbone = host.backbone
    states = EmbeddingStates(backbone)
    version = UNTRAINED
    if (settings.modules / CARD_FILE).is_file():
        modules, card = load_modules(settings.modules, base_digest=backbone.digest)
        version = card.sha256[:_DIGEST_CHARS]
    else:
        modules = MemoryModules(states.width).requires_grad_(requires_grad=False)
        reason = f"memory modules: untrained ones are served; {settings.modules.name} has no card"
        host.warnings.append(reason)
        _LOG.warning("served without trained memory modules", reason=reason)
    encoder = MemoryEncoder(SlotTokenizer(backbone.tokenizer), states, modules)
    sessions = SessionCache(
        store,
        modules,
        f"{backbone.digest[:_DIGEST_CHARS]}+{version}",
        capacity=settings.cached_sessions,
        compact_batches=settings.compact_batches,
    )
    return MemoryHost(
        host,
        encoder,
        sessions,
        evidence_tokens=settings.evidence_tokens,
        reader_spans=settings.reader_spans,
        reader=settings.reader,
    )

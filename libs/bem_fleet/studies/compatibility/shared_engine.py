"""Engine that the active missions share: one frozen base model with all of their small parts.

The surface front of sep changes the weights, and the safety basis of safety projects every adapter
that is loaded beside it. Both are therefore in the engine, or not at all; the other missions act
request by request.
"""

from dataclasses import dataclass
from pathlib import Path

from bem.adapters.bank import AdapterBank
from bem.backbone import Backbone, WeightFormat
from bem.engine import LLMEngine
from bem.engine.weight_autotune import select_format
from bem.errors import EvaluationError
from bem.memory import EmbeddingStates, MemoryEncoder, MemoryModules, SlotTokenizer
from bem.memory.artifact import load_modules
from bem.online.artifact import BANK_FORMAT
from bem.policy.actions import FIXED_PLAN
from bem.policy.artifact import read_policy
from bem.safety import SafetyOverlay

from bem_fleet.recipes.router.step_examples import PLAN_TASKS
from bem_fleet.services.sep.front_loading import with_front
from bem_fleet.serving.model_loading import install_safety_adapter, open_bank
from bem_fleet.studies.compatibility.learned_codes import LiveCodes
from bem_fleet.studies.compatibility.seed_artifacts import READER, SeedArtifacts
from bem_fleet.studies.router.plan_system import PlanChooser, always, by_policy

CONTEXT_TOKENS = 4096
_ROWS, _WAITING, _SLOTS = 16, 4096, 16
_RANK = 16
_PREFIX_BYTES = 256 * 2**20


@dataclass(frozen=True)
class EngineParts:
    """Parts of an engine that no request can choose.

    Attributes:
        sep: Whether the surface front is in the weights.
        safety: Whether the safety basis is reserved.
    """

    sep: bool = False
    safety: bool = False


@dataclass(eq=False)
class SharedEngine:
    """A started engine with what the missions of one seed need.

    Attributes:
        engine: The engine.
        backbone: Base model with what was folded into it.
        tasks: Loaded adapter of each task of the router.
        choose: Chooses the router's plans.
        encoder: Encoder of memory's sessions.
        reader: Adapter with which memory answers; None for the base model.
        codes: Live version of online; None where nothing is learned.
    """

    engine: LLMEngine
    backbone: Backbone
    tasks: dict[str, str]
    choose: PlanChooser
    encoder: MemoryEncoder
    reader: str | None = None
    codes: LiveCodes | None = None

    def close(self) -> None:
        """End the engine."""
        self.engine.close(drain=True)


def open_shared_engine(
    backbone: Backbone,
    seed: SeedArtifacts,
    parts: EngineParts,
    *,
    codes: LiveCodes | None = None,
    weights: WeightFormat = "fp32",
    kernels: Path = Path(".cache/kernels"),
) -> SharedEngine:
    """Load a seed's artifacts and start the engine.

    Args:
        backbone: Base model as loaded; it must not be used for anything else.
        seed: Artifacts of the training seed.
        parts: Parts that are in the engine.
        codes: What online has learned; None for nothing.
        weights: Format of the frozen weights.
        kernels: Folder of compiled kernels.

    Raises:
        BemError: An artifact is malformed or belongs to another base model.
    """
    encoder = _memory_encoder(backbone, seed)
    if parts.sep:
        backbone = with_front(backbone, seed.path("sep"))
    backbone, _ = select_format(backbone, weights, "auto", cache=kernels)
    bank, overlay = _bank(backbone, seed, parts)
    loaded = [bank.load(folder).name for folder in seed.adapters()]
    engine = LLMEngine(
        backbone,
        bank,
        max_sequences=_ROWS,
        max_waiting=_WAITING,
        context_tokens=min(CONTEXT_TOKENS, backbone.context_tokens),
        prefix_bytes=_PREFIX_BYTES,
        safety=overlay,
    )
    engine.start()
    if codes:
        codes.install(engine)
    return SharedEngine(
        engine=engine,
        backbone=backbone,
        tasks={task: task for task in PLAN_TASKS if task in loaded},
        choose=_chooser(seed, backbone.digest),
        encoder=encoder,
        reader=READER if READER in loaded else None,
        codes=codes,
    )


def _memory_encoder(backbone: Backbone, seed: SeedArtifacts) -> MemoryEncoder:
    """Return the encoder of sessions; its states are embeddings, which no front changes."""
    states = EmbeddingStates(backbone)
    if seed.has("memory"):
        modules, _ = load_modules(seed.path("memory"), base_digest=backbone.digest)
    else:
        modules = MemoryModules(states.width).requires_grad_(requires_grad=False)
    return MemoryEncoder(SlotTokenizer(backbone.tokenizer), states, modules)


def _bank(
    backbone: Backbone, seed: SeedArtifacts, parts: EngineParts
) -> tuple[AdapterBank, SafetyOverlay | None]:
    """Return an empty bank with room for every adapter of the seed, and the safety adapter."""
    rank = _RANK
    if seed.has("online"):
        rank = max(rank, BANK_FORMAT.read_card(seed.path("online")).rank)
    bank = open_bank(backbone, first_layer=None, feature_layer=None, rank=rank, slots=_SLOTS)
    if bank is None:
        raise EvaluationError("backbone: it has no room for adapters; take one of several layers")
    if not parts.safety:
        return bank, None
    return bank, install_safety_adapter(backbone, bank, seed.path("safety"))[0]


def _chooser(seed: SeedArtifacts, base_digest: str) -> PlanChooser:
    if not seed.has("router"):
        return always(FIXED_PLAN)[0]
    return by_policy(read_policy(seed.path("router"), base_digest=base_digest))[0]

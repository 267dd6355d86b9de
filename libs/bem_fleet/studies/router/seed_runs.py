"""Training seeds of the router's study: the artifacts of each, in an engine of its own."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bem.adapters.artifact import read_adapter_card
from bem.adapters.bank import AdapterBank
from bem.adapters.peft_weights import WEIGHTS
from bem.backbone import Backbone, load_backbone
from bem.engine import LLMEngine
from bem.errors import EvaluationError
from bem.policy.artifact import PolicyArtifact, read_policy

from bem_fleet.recipes.router.adapter_mixtures import (
    CLASSIFIER,
    export_tasks,
    open_arrow,
    read_xlora,
)
from bem_fleet.recipes.router.step_examples import PLAN_TASKS
from bem_fleet.studies.router.mixture_system import MixtureSystem

XLORA, ARROW = "X-LoRA", "Arrow"


@dataclass(frozen=True)
class RouterFolders:
    """Artifacts of one training seed.

    Attributes:
        tasks: Folder with the adapters of the plans' tasks.
        monoliths: Folder of each monolith, by its task.
        policy: Folder of the policy.
        xlora: Folder of the X-LoRA classifier over the tasks' adapters; None leaves X-LoRA out.
        arrow: Whether Arrow over the tasks' adapters takes part.
    """

    tasks: Path
    monoliths: dict[str, Path]
    policy: Path
    xlora: Path | None = None
    arrow: bool = False


@dataclass(frozen=True, eq=False)
class SeedRun:
    """One training seed, ready to answer.

    Attributes:
        engine: Started engine with the adapters of the tasks and the monoliths.
        monoliths: Name of the loaded adapter of each monolith, by its task.
        policy: Policy of the seed.
        mixtures: Mixtures of the tasks' adapters by their name in reports.
    """

    engine: LLMEngine
    monoliths: dict[str, str]
    policy: PolicyArtifact
    mixtures: dict[str, MixtureSystem]

    @property
    def seed(self) -> int:
        """Training seed, as the card of the policy names it."""
        return self.policy.card.seed


@contextmanager
def open_seed_runs(folders: Sequence[RouterFolders], models: Path) -> Iterator[list[SeedRun]]:
    """Open every seed, and close the engines at the end.

    Adapters of two seeds have the same names, so each seed has an engine; the weights of the base
    model are mapped from one file.

    Args:
        folders: Artifacts of each seed.
        models: Cache folder of base models.

    Raises:
        EvaluationError: Two policies name the same seed.
    """
    with ExitStack() as stack:
        runs = []
        for one in folders:
            exported = Path(stack.enter_context(TemporaryDirectory()))
            run = _open_run(load_backbone(cache=models), one, _open_mixtures(one, models, exported))
            run.engine.start()
            stack.callback(run.engine.close, drain=True)
            runs.append(run)
        seeds = [run.seed for run in runs]
        if len(set(seeds)) < len(seeds):
            raise EvaluationError(
                f"policy: the seeds {seeds} repeat; give one policy of each training seed"
            )
        yield runs


def _open_mixtures(
    folders: RouterFolders, models: Path, exported: Path
) -> dict[str, MixtureSystem]:
    """Return the mixtures that take part, each with a base model of its own."""
    found = {}
    if folders.xlora:
        backbone = load_backbone(cache=models)
        adapters = export_tasks(backbone, folders.tasks, exported)
        model = read_xlora(backbone, adapters, folders.xlora)
        files = [folder / WEIGHTS for folder in adapters]
        files.append(folders.xlora / CLASSIFIER)
        found[XLORA] = MixtureSystem(model, backbone, XLORA, files)
    if folders.arrow:
        backbone = load_backbone(cache=models)
        adapters = export_tasks(backbone, folders.tasks, exported)
        model = open_arrow(backbone, adapters)
        files = [folder / WEIGHTS for folder in adapters]
        found[ARROW] = MixtureSystem(model, backbone, ARROW, files)
    return found


def _open_run(
    backbone: Backbone, folders: RouterFolders, mixtures: dict[str, MixtureSystem]
) -> SeedRun:
    """Return an engine with all adapters of a seed, not started."""
    paths = [folders.tasks / task for task in PLAN_TASKS]
    cards = [read_adapter_card(path) for path in (*paths, *folders.monoliths.values())]
    bank = AdapterBank(
        backbone,
        layers=cards[0].layers,
        rank=max(card.rank for card in cards),
        slots=len(cards),
        feature_layer=cards[0].feature_layer,
    )
    for path in paths:
        bank.load(path)
    names = {task: bank.load(path).name for task, path in folders.monoliths.items()}
    engine = LLMEngine(backbone, bank, max_sequences=16, max_waiting=4096, context_tokens=2048)
    policy = read_policy(folders.policy, base_digest=backbone.digest)
    return SeedRun(engine, names, policy, mixtures)

"""Comparison of several training seeds of one adapter with its base, in process."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from bem.adapters.artifact import read_adapter
from bem.adapters.bank import AdapterBank
from bem.backbone import Backbone
from bem.engine import LLMEngine

from bem_fleet.data.passage_qa import PassageQADataset, few_shot_examples
from bem_fleet.evaluation.passage_items import held_out_items
from bem_fleet.evaluation.pipeline import Comparison, Report, evaluate
from bem_fleet.evaluation.systems import (
    Chat,
    ComparisonSide,
    Decoding,
    Response,
    SystemRun,
)
from bem_fleet.evaluation.worker_system import WorkerSystem
from bem_fleet.recipes.passage_qa.evaluate import MAX_TOKENS


class SeedSystem:
    """Evaluation system of one training seed.

    Seeds share the adapter's name, so each artifact is loaded right before it answers.

    Args:
        worker: Started engine with a bank that the artifact fits.
        folder: Folder of the artifact.

    Raises:
        ArtifactFormatError: A file is missing or malformed.
        ArtifactTamperedError: The tensors do not have the hash on the card.
        BaseMismatchError: The adapter belongs to another base model.
    """

    def __init__(self, worker: LLMEngine, folder: Path) -> None:
        self._worker, self._folder = worker, folder
        adapter = read_adapter(folder, base_digest=worker.backbone.digest)
        self.name, self.seed = adapter.card.name, adapter.card.seed
        self.digest = f"{worker.backbone.digest}+{adapter.version}"

    def respond(
        self, chats: Sequence[Chat], decoding: Decoding, seed: int
    ) -> Iterator[tuple[int, Response]]:
        """Load the artifact and answer with it."""
        self._worker.load_adapter(self._folder).result()
        yield from WorkerSystem(self._worker, self.name).respond(chats, decoding, seed)


def compare_seeds(
    backbone: Backbone,
    folders: Sequence[Path],
    data: PassageQADataset,
    *,
    name: str,
    command: str,
    cache: Path | None = None,
    limit: int | None = None,
) -> Report:
    """Compare all seeds of an adapter with its base, zero-shot and with two solved examples.

    Args:
        backbone: Base model without sites.
        folders: Artifact folders, one per training seed, of equal shape.
        data: Data set that the adapter was trained on.
        name: Name of the report.
        command: Command line, for the report.
        cache: Folder of answers and scores of earlier runs.
        limit: Largest number of held-out items; None for all.

    Returns:
        The report, with scores ``[seeds, items]`` and cluster intervals over both.
    """
    # A second slot lets a seed be loaded while the one that it replaces is still resident.
    bank = AdapterBank.for_artifact(backbone, folders[0], slots=2)
    worker = LLMEngine(backbone, bank, max_sequences=8, max_waiting=4096, context_tokens=2048)
    worker.start()
    try:
        systems = [SeedSystem(worker, folder) for folder in folders]
        comparison = _comparison(worker, systems, data, name=name, command=command, limit=limit)
        return evaluate(comparison, cache=cache)
    finally:
        worker.close(drain=True)


def _comparison(
    worker: LLMEngine,
    systems: Sequence[SeedSystem],
    data: PassageQADataset,
    *,
    name: str,
    command: str,
    limit: int | None,
) -> Comparison:
    adapter, base = systems[0].name, SystemRun(WorkerSystem(worker))
    shots = tuple((shot.prompt(), shot.reply()) for shot in few_shot_examples(data))
    return Comparison(
        id=name,
        mission=ComparisonSide(adapter, tuple(SystemRun(s, s.seed) for s in systems), "strict"),
        baselines=(
            ComparisonSide("base with two examples", (base,), "lenient", shots),
            ComparisonSide("base, zero-shot", (base,), "lenient"),
        ),
        items=held_out_items(data, limit),
        data_name=f"{adapter}, held_out",
        data_digest=data.digest,
        command=command,
        unit="passage",
        decoding=Decoding(max_tokens=MAX_TOKENS),
        confidence_note=(
            "Answered in process, without service and sidecar. The adapter is read strictly (a "
            "reply that is not the JSON scores 0), the base leniently. The base has no training "
            "seed and is compared with each of the adapter's."
        ),
    )

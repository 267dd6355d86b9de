"""Several training seeds of one adapter against its base, in this process, on the held-out items."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from bem.adapters.artifact import read_adapter
from bem.adapters.bank import AdapterBank
from bem.backbone import Backbone
from bem.engine import ModelWorker

from bem_fleet.data.datasets import question_word
from bem_fleet.data.passage_qa import PassageQADataset, few_shot_examples
from bem_fleet.evaluation.pipeline import Comparison, Report, evaluate
from bem_fleet.evaluation.systems import (
    Chat,
    ComparisonSide,
    Decoding,
    EvaluationItem,
    Response,
    SystemRun,
)
from bem_fleet.evaluation.worker_system import WorkerSystem
from bem_fleet.recipes.passage_qa.evaluate import MAX_TOKENS


class SeedSystem:
    """An adapter's artifact of one seed, loaded when it is asked: seeds share a name.

    Args:
        worker: Started, with a bank that the artifact fits.
        folder: The artifact.

    Raises:
        ArtifactFormatError: As of ``read_adapter``, like its other errors.
    """

    def __init__(self, worker: ModelWorker, folder: Path) -> None:
        self._worker, self._folder = worker, folder
        found = read_adapter(folder, base_digest=worker.backbone.digest)
        self.name, self.seed = found.card.name, found.card.seed
        self.digest = f"{worker.backbone.digest}+{found.version}"

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
        backbone: The base model, without sites.
        folders: One artifact a training seed, of equal shape.
        data: What the adapter was trained on.
        name: Of the report.
        command: For the report.
        cache: Folder of answers and scores of earlier runs.
        limit: Held-out items at most; None for all.

    Returns:
        The report, with scores [seeds, items] and cluster intervals over both.
    """
    # A seed is written beside the one that it replaces.
    bank = AdapterBank.shaped_for(backbone, folders[0], slots=2)
    worker = ModelWorker(backbone, bank, rows=8, queue=4096, context_tokens=2048)
    worker.start()
    try:
        systems = [SeedSystem(worker, folder) for folder in folders]
        adapter, base = systems[0].name, SystemRun(WorkerSystem(worker))
        shots = tuple((shot.prompt(), shot.reply()) for shot in few_shot_examples(data))
        return evaluate(
            Comparison(
                id=name,
                mission=ComparisonSide(
                    adapter, tuple(SystemRun(s, s.seed) for s in systems), "strict"
                ),
                baselines=(
                    ComparisonSide("base with two examples", (base,), "lenient", shots),
                    ComparisonSide("base, zero-shot", (base,), "lenient"),
                ),
                items=tuple(
                    EvaluationItem(
                        item.key, item.prompt(), (item.answer,), question_word(item.question)
                    )
                    for item in data.splits["held_out"][:limit]
                ),
                data_name=f"{adapter}, held_out",
                data_digest=data.digest,
                command=command,
                decoding=Decoding(max_tokens=MAX_TOKENS),
                confidence_note=(
                    "Answered in process, without service and sidecar. The adapter is read strictly "
                    "(a reply that is not the JSON scores 0), the base leniently; the base has no "
                    "training seed and stands against each of the adapter's."
                ),
            ),
            cache=cache,
        )
    finally:
        worker.close(drain=True)

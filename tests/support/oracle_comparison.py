"""Systems that are exact and a worker with the tiny model, for tests of evaluation."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bem.adapters.bank import AdapterBank
from bem.engine import LLMEngine
from bem.testing import tiny_backbone
from bem_fleet.evaluation.pipeline import Comparison
from bem_fleet.evaluation.systems import (
    Chat,
    ComparisonSide,
    Decoding,
    EvaluationItem,
    Response,
    SystemRun,
)

from tests.support.random_adapters import FEATURE_LAYER, LAYERS, RANK, write_adapter


class Oracle:
    """Knows the answer of an item unless its number is a multiple of ``misses``; counts calls.

    Answers leave in reverse order, as a batch may end in any order.
    """

    def __init__(self, misses: int, name: str = "oracle") -> None:
        self.name = name
        self.digest = f"{name}-{misses}"
        self.asked = 0
        self._misses = misses

    def respond(
        self, chats: Sequence[Chat], decoding: Decoding, seed: int
    ) -> Iterator[tuple[int, Response]]:
        """Answer in JSON with the number that the prompt holds."""
        del decoding
        for place in reversed(range(len(chats))):
            self.asked += 1
            number = int(chats[place][-1].content)
            right = (number + seed) % self._misses != 0
            yield place, Response(f'{{"answer": "{number if right else "no"}"}}', 10, 4)


def items(count: int = 60) -> tuple[EvaluationItem, ...]:
    """Items whose answer is their number."""
    return tuple(EvaluationItem(f"k{n}", str(n), (str(n),), f"c{n % 2}") for n in range(count))


def comparison(*runs: SystemRun, baseline: SystemRun | None = None, count: int = 60) -> Comparison:
    """A mission against an oracle that misses every second item."""
    return Comparison(
        id="x.test",
        mission=ComparisonSide("mission", runs, "strict"),
        baselines=(ComparisonSide("baseline", (baseline or SystemRun(Oracle(2)),), "lenient"),),
        items=items(count),
        data_name="numbers",
        data_digest="d" * 64,
        command="make x",
        resamples=500,
    )


@contextmanager
def tiny_worker(folder: Path) -> Iterator[LLMEngine]:
    """A running worker with the random adapter ``alpha``."""
    backbone = tiny_backbone()
    write_adapter(folder, backbone, "alpha", seed=0)
    bank = AdapterBank(backbone, layers=LAYERS, rank=RANK, slots=1, feature_layer=FEATURE_LAYER)
    bank.load(folder / "alpha")
    worker = LLMEngine(backbone, bank, max_sequences=4, max_waiting=64, context_tokens=512)
    worker.start()
    try:
        yield worker
    finally:
        worker.close(drain=False)

"""What the serving measures share: an engine with random adapters, and timed requests."""

import json
import shutil
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from bem.adapters.artifact import CARD, TENSORS, AdapterCard, save_adapter
from bem.adapters.bank import AdapterBank
from bem.adapters.site import KINDS
from bem.backbone import Backbone
from bem.controller import Controller
from bem.engine import GenerationRequest, LLMEngine, OutputDelta, Sampling

from benchmarks.engine.engine_fixture import backbone as held

LAYERS, FEATURE_LAYER, RANK = range(15, 30), 8, 8
# Files that differ; more adapters share them under their own cards, so that a disk holds them.
FILES = 16


@dataclass
class Timed:
    """One request as a client saw it.

    Attributes:
        began: When it was sent, on the clock of ``time.perf_counter()``.
        times: When each of its tokens came, on the same clock.
        done: Set when it has ended.
    """

    began: float
    times: list[float]
    done: threading.Event

    @property
    def ttft_s(self) -> float:
        """Seconds to the first token."""
        return self.times[0] - self.began

    @property
    def seconds(self) -> float:
        """Seconds to the last token."""
        return self.times[-1] - self.began

    def wait(self) -> "Timed":
        """Return it once it has ended."""
        assert self.done.wait(timeout=280), "no end in time"
        return self


class Engine:
    """A running engine with timed requests.

    Args:
        worker: Started.
    """

    def __init__(self, worker: LLMEngine) -> None:
        self.worker = worker
        ends = worker.backbone.end_token_ids
        self._endless = Sampling(
            temperature=0, logit_bias=tuple((end, -100.0) for end in ends), logprobs=0
        )

    def ask(self, ids: Sequence[int], tokens: int, **fields: Any) -> Timed:
        """Send a greedy request that ends after ``tokens`` tokens."""
        timed = Timed(time.perf_counter(), [], threading.Event())

        def note(piece: OutputDelta | Exception) -> None:
            assert isinstance(piece, OutputDelta), piece
            timed.times += [time.perf_counter()] * max(1, len(piece.logprobs))
            if piece.finish:
                timed.done.set()

        request = GenerationRequest(tuple(ids), self._endless, max_tokens=tokens, **fields)
        self.worker.submit(request, note)
        return timed


def random_ids(count: int, seed: int) -> list[int]:
    """Return token ids that no other seed shares."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(100, 40_000, (count,), generator=generator).tolist()


@contextmanager
def engine(
    *,
    weights: str = "auto",
    rows: int = 16,
    adapters: int = 2,
    slots: int = 4,
    context_tokens: int = 1024,
    prefix_bytes: int = 2**28,
) -> Iterator[Engine]:
    """Run an engine with the packaged model and ``adapters`` random adapters, ``s0`` and on."""
    backbone = held(weights)
    bank = AdapterBank(backbone, layers=LAYERS, rank=RANK, slots=slots, feature_layer=FEATURE_LAYER)
    with TemporaryDirectory() as scratch:
        for folder in write_adapters(Path(scratch), backbone, adapters):
            bank.load(folder)
        worker = LLMEngine(
            backbone,
            bank,
            max_sequences=rows,
            max_waiting=4096,
            context_tokens=context_tokens,
            prefix_bytes=prefix_bytes,
        )
        worker.start()
        try:
            yield Engine(worker)
        finally:
            worker.close(drain=False)


def write_adapters(folder: Path, backbone: Backbone, count: int) -> list[Path]:
    """Write random adapters; after the first few, folders link to their tensors."""
    made: list[Path] = []
    for number in range(count):
        name = f"s{number}"
        if number < FILES:
            save_adapter(folder / name, _card(name, backbone), _tensors(backbone, number))
        else:
            like = made[number % FILES]
            (folder / name).mkdir()
            (folder / name / TENSORS).symlink_to(like / TENSORS)
            card = json.loads((like / CARD).read_text())
            (folder / name / CARD).write_text(json.dumps({**card, "name": name}))
        made.append(folder / name)
    assert shutil.disk_usage(folder).free > 2**30
    return made


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that ``share`` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def show(figures: Any) -> None:
    """Print figures as JSON."""
    plain = asdict(figures) if is_dataclass(figures) and not isinstance(figures, type) else figures
    print(json.dumps(plain, indent=2))


def _card(name: str, backbone: Backbone) -> AdapterCard:
    return AdapterCard(
        name=name,
        base_name=backbone.name,
        base_digest=backbone.digest,
        layers=list(LAYERS),
        kinds=list(KINDS),
        rank=RANK,
        scale=1.0,
        feature_layer=FEATURE_LAYER,
        command="benchmark",
        data_digest="0",
        seed=0,
    )


def _tensors(backbone: Backbone, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    config = backbone.model.config
    widths = {"o_proj": config.hidden_size, "down_proj": config.intermediate_size}
    tensors = {}
    for layer in LAYERS:
        for kind, path in KINDS.items():
            site = f"model.layers.{layer}.{path}"
            tensors[f"{site}.A"] = torch.randn(RANK, widths[kind], generator=generator) * 0.02
            tensors[f"{site}.B"] = torch.randn(config.hidden_size, RANK, generator=generator) * 0.02
    controller = Controller(config.hidden_size, RANK)
    for key, value in controller.state_dict().items():
        tensors[f"controller.{key}"] = torch.randn(value.shape, generator=generator) * 0.1
    return tensors

"""Running engine with random adapters whose requests are timed token by token."""

import json
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from bem.adapters.artifact import CARD_FILE, TENSORS_FILE, AdapterCard, save_adapter
from bem.adapters.bank import AdapterBank
from bem.adapters.site import TARGET_MODULES
from bem.backbone import Backbone
from bem.controller import Controller
from bem.engine import GenerationRequest, LLMEngine, OutputDelta

from benchmarks.engine.engine_fixture import GREEDY, load
from benchmarks.engine.peers.sides.commands import prompts_of

LAYERS, FEATURE_LAYER, RANK = range(15, 30), 8, 8
# Distinct tensor files; further adapters link to them under their own cards, to save disk space.
DISTINCT_FILES = 16


@dataclass
class TimedRequest:
    """A request with the arrival times of its tokens at the client.

    Attributes:
        submitted_at: Time of submission, on the clock of ``time.perf_counter()``.
        token_times: Arrival times of the tokens, on the same clock.
        done: Event that is set when the request has ended.
    """

    submitted_at: float
    token_times: list[float]
    done: threading.Event

    @property
    def ttft_s(self) -> float:
        """Seconds to the first token."""
        return self.token_times[0] - self.submitted_at

    @property
    def seconds(self) -> float:
        """Seconds to the last token."""
        return self.token_times[-1] - self.submitted_at

    def wait(self) -> "TimedRequest":
        """Wait for the end of the request and return it."""
        assert self.done.wait(timeout=280), "the request did not end in 280 s"
        return self


class TimedEngine:
    """A running engine that times its requests.

    Args:
        engine: Started engine.
    """

    def __init__(self, engine: LLMEngine) -> None:
        self.engine = engine

    def submit(self, ids: Sequence[int], tokens: int, **fields: Any) -> TimedRequest:
        """Submit a greedy request that ends after ``tokens`` tokens."""
        timed = TimedRequest(time.perf_counter(), [], threading.Event())

        def on_output(delta: OutputDelta | Exception) -> None:
            assert isinstance(delta, OutputDelta), delta
            arrived = delta.completion_tokens - len(timed.token_times)
            timed.token_times += [time.perf_counter()] * arrived
            if delta.finish:
                timed.done.set()

        request = GenerationRequest(
            tuple(ids), GREEDY, max_tokens=tokens, ignore_eos=True, **fields
        )
        self.engine.submit(request, on_output)
        return timed


def rate_of_requests(
    engine: TimedEngine, rows: int, prompt: int, new: int, adapters: Sequence[str] = ()
) -> float:
    """Return tokens per second of requests at once: new ones, or of the prompt if it is one.

    Args:
        engine: Running engine.
        rows: Requests at once.
        prompt: Prompt tokens of each, the same as peers get.
        new: New tokens of each.
        adapters: Adapter of each request; without any, the base model answers.
    """
    fields = [{"adapter": name} for name in adapters] or [{}] * rows
    asked = [
        engine.submit(ids, new, **one)
        for ids, one in zip(prompts_of(rows, prompt), fields, strict=True)
    ]
    ended = max(one.wait().token_times[-1] for one in asked)
    return rows * (new if new > 1 else prompt) / (ended - asked[0].submitted_at)


def random_ids(count: int, seed: int) -> list[int]:
    """Return random token ids that differ between seeds."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(100, 40_000, (count,), generator=generator).tolist()


@contextmanager
def running_engine(
    *,
    weights: str = "auto",
    max_sequences: int = 16,
    adapters: int = 2,
    slots: int = 4,
    context_tokens: int = 1024,
    prefix_bytes: int = 2**28,
) -> Iterator[TimedEngine]:
    """Run an engine with the packaged model and random adapters ``s0``, ``s1`` and so on."""
    backbone = load(weights)
    bank = AdapterBank(backbone, layers=LAYERS, rank=RANK, slots=slots, feature_layer=FEATURE_LAYER)
    with TemporaryDirectory() as scratch:
        for folder in write_adapters(Path(scratch), backbone, adapters):
            bank.load(folder)
        engine = LLMEngine(
            backbone,
            bank,
            max_sequences=max_sequences,
            max_waiting=4096,
            context_tokens=context_tokens,
            prefix_bytes=prefix_bytes,
        )
        engine.start()
        try:
            yield TimedEngine(engine)
        finally:
            engine.close(drain=False)


def write_adapters(folder: Path, backbone: Backbone, count: int) -> list[Path]:
    """Write random adapters and return their folders."""
    folders: list[Path] = []
    for number in range(count):
        name = f"s{number}"
        if number < DISTINCT_FILES:
            save_adapter(folder / name, _card(name, backbone), _tensors(backbone, number))
        else:
            original = folders[number % DISTINCT_FILES]
            (folder / name).mkdir()
            (folder / name / TENSORS_FILE).symlink_to(original / TENSORS_FILE)
            card = json.loads((original / CARD_FILE).read_text())
            (folder / name / CARD_FILE).write_text(json.dumps({**card, "name": name}))
        folders.append(folder / name)
    assert shutil.disk_usage(folder).free > 2**30
    return folders


def _card(name: str, backbone: Backbone) -> AdapterCard:
    return AdapterCard(
        name=name,
        base_name=backbone.name,
        base_digest=backbone.digest,
        layers=list(LAYERS),
        kinds=list(TARGET_MODULES),
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
        for kind, path in TARGET_MODULES.items():
            site = f"model.layers.{layer}.{path}"
            tensors[f"{site}.A"] = torch.randn(RANK, widths[kind], generator=generator) * 0.02
            tensors[f"{site}.B"] = torch.randn(config.hidden_size, RANK, generator=generator) * 0.02
    controller = Controller(config.hidden_size, RANK)
    for key, value in controller.state_dict().items():
        tensors[f"controller.{key}"] = torch.randn(value.shape, generator=generator) * 0.1
    return tensors

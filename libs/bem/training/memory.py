"""Fits a training step into a memory budget: measures steps and picks the fastest that fits."""

import gc
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from tqdm import tqdm

from bem.errors import MemoryBudgetError
from bem.training.features import Example
from bem.training.strategy import Strategy
from bem.training.trainer import AdapterTrainer

_STATUS = Path("/proc/self/status")
_SAMPLE_S = 0.002
_MIB = 1 << 20


@dataclass(frozen=True)
class Tried:
    """One strategy, measured.

    Attributes:
        strategy: How the step was carried out.
        peak_bytes: Largest resident memory of the process while it ran (of the device's
            allocations on CUDA), model and all included.
        seconds: Of one forward and backward pass over the batch, warm.
        fits: Whether the peak lies within the budget.
    """

    strategy: Strategy
    peak_bytes: int
    seconds: float
    fits: bool


class PeakMemory:
    """Watches the memory of a block: ``with PeakMemory(device) as peak: …; peak.bytes``.

    On a CPU the process's resident memory is sampled every 2 ms; whatever a shorter spike takes
    beyond is not seen.

    Args:
        device: Whose memory.
    """

    def __init__(self, device: torch.device) -> None:
        self.bytes = 0
        self._cuda = device if device.type == "cuda" else None
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        if self._cuda is not None:
            torch.cuda.reset_peak_memory_stats(self._cuda)
        else:
            self._watcher.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._cuda is not None:
            self.bytes = torch.cuda.max_memory_allocated(self._cuda)
            return
        self._ended.set()
        self._watcher.join()
        self.bytes = max(self.bytes, resident_bytes())

    def _watch(self) -> None:
        while True:
            self.bytes = max(self.bytes, resident_bytes())
            if self._ended.wait(_SAMPLE_S):
                return


def resident_bytes() -> int:
    """Return the private resident memory of this process; mapped files can be dropped any time."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise MemoryBudgetError(f"{_STATUS} names no RssAnon; a budget needs Linux 4.5 or newer")


def candidates(row_tokens: Sequence[int] = (512, 2048, 8192)) -> list[Strategy]:
    """Return strategies from the most frugal one up: states recomputed or kept, rows small first.

    The cache of lower layers is not among them: it is a mapped file and costs no private memory.
    """
    return [
        Strategy(row_tokens=tokens, recompute=recompute)
        for recompute in (True, False)
        for tokens in row_tokens
    ]


class MemoryOptimizer:
    """Chooses how a trainer carries out its steps.

    Candidates are tried from the most frugal up, and one that breaks the budget ends the search
    along its line (the same choice of recomputing, larger rows), so that a budget that is the
    machine's limit is overrun by one step at most.

    Args:
        budget_bytes: What the step may take, model included.
        tries: Strategies, the frugal first.

    Raises:
        MemoryBudgetError: A budget below 1, or nothing to try.
    """

    def __init__(self, budget_bytes: int, tries: Sequence[Strategy] | None = None) -> None:
        self.budget_bytes = budget_bytes
        self._tries = list(candidates() if tries is None else tries)
        if budget_bytes < 1 or not self._tries:
            raise MemoryBudgetError(
                f"a budget of {budget_bytes} bytes with {len(self._tries)} strategies to try; "
                "at least 1 of each is needed"
            )

    def fit(self, trainer: AdapterTrainer, batch: Sequence[Example]) -> list[Tried]:
        """Measure, and have ``trainer`` use the fastest strategy that fits.

        No parameter changes: gradients are dropped, no step is taken.

        Args:
            trainer: Its own arithmetic is kept.
            batch: The largest that there will be; see ``largest_batch``.

        Returns:
            What was tried, in order.

        Raises:
            MemoryBudgetError: Not even the most frugal fits; what it took is named.
        """
        kept = trainer.strategy
        longest = max(len(example.labels) for example in batch)
        tried: list[Tried] = []
        over: set[bool] = set()
        for wanted in tqdm(self._tries, desc="memory", unit="strategy"):
            strategy = replace(wanted, arithmetic=kept.arithmetic)
            # Rows smaller than the longest sequence are rows of one sequence, one like another.
            known = any(
                one.strategy.recompute == strategy.recompute
                and max(one.strategy.row_tokens, longest) == max(strategy.row_tokens, longest)
                for one in tried
            )
            if known or strategy.recompute in over:
                continue
            tried.append(self._measured(trainer, strategy, batch))
            if not tried[-1].fits:
                over.add(strategy.recompute)
        fitting = [one for one in tried if one.fits]
        if not fitting:
            trainer.use(kept)
            least = min(one.peak_bytes for one in tried)
            raise MemoryBudgetError(
                f"a step takes {least / _MIB:,.0f} MiB at its most frugal (states recomputed, "
                f"one sequence a row); the budget is {self.budget_bytes / _MIB:,.0f} MiB: "
                "shorten the sequences or raise it"
            )
        trainer.use(min(fitting, key=lambda one: one.seconds).strategy)
        return tried

    def _measured(
        self, trainer: AdapterTrainer, strategy: Strategy, batch: Sequence[Example]
    ) -> Tried:
        trainer.use(strategy)
        gc.collect()
        with PeakMemory(trainer.decoder.device) as peak:
            # The first pass also merges the layers' weights; the second is the one that is timed.
            trainer.accumulate(batch)
            began = time.perf_counter()
            trainer.accumulate(batch)
            seconds = time.perf_counter() - began
        trainer.optimizer.zero_grad(set_to_none=True)
        return Tried(strategy, peak.bytes, seconds, peak.bytes <= self.budget_bytes)


def largest_batch(examples: Sequence[Example], size: int) -> list[Example]:
    """Return the ``size`` longest examples: no step of a run takes more."""
    return sorted(examples, key=lambda example: -len(example.labels))[:size]

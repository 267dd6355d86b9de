"""Memory budget of training: measures steps and selects the fastest strategy that fits."""

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
from bem.training.activation_cache import EncodedExample
from bem.training.strategy import Strategy
from bem.training.trainer import AdapterTrainer

_STATUS = Path("/proc/self/status")
_SAMPLE_S = 0.002
_MIB = 1 << 20


@dataclass(frozen=True)
class StrategyMeasurement:
    """Measured time and memory of one strategy.

    Attributes:
        strategy: Strategy that was measured.
        peak_bytes: Largest resident memory of the process during the step, on CUDA of the
            device's allocations; it includes the model.
        seconds: Time of one forward and backward pass over the batch, after warm-up.
        fits: Whether the peak is within the budget.
    """

    strategy: Strategy
    peak_bytes: int
    seconds: float
    fits: bool


class PeakMemory:
    """Context manager that measures peak memory: ``with PeakMemory(device) as peak: ...``.

    On a CPU it samples the resident memory of the process every 2 ms and misses shorter spikes.

    Args:
        device: Device whose memory is measured.

    Attributes:
        bytes: Peak, valid after the block.
    """

    def __init__(self, device: torch.device) -> None:
        self.bytes = 0
        self._cuda = device if device.type == "cuda" else None
        self._stop = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        if self._cuda is not None:
            torch.cuda.reset_peak_memory_stats(self._cuda)
        else:
            self._sampler.start()
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
        self._stop.set()
        self._sampler.join()
        self.bytes = max(self.bytes, resident_bytes())

    def _sample(self) -> None:
        while True:
            self.bytes = max(self.bytes, resident_bytes())
            if self._stop.wait(_SAMPLE_S):
                return


def resident_bytes() -> int:
    """Return the private resident memory of this process, bytes.

    Pages of mapped files are left out: the kernel can drop them at any time.
    """
    for line in _STATUS.read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise MemoryBudgetError(f"{_STATUS} has no RssAnon; a memory budget needs Linux 4.5 or newer")


def candidate_strategies(row_tokens: Sequence[int] = (512, 2048, 8192)) -> list[Strategy]:
    """Return strategies by increasing memory: recomputed states first, and small rows first.

    The activation cache is not part of a strategy: it is a mapped file and takes no private memory.
    """
    return [
        Strategy(row_tokens=tokens, recompute=recompute)
        for recompute in (True, False)
        for tokens in row_tokens
    ]


class MemoryOptimizer:
    """Selects how a trainer executes its steps within a memory budget.

    Candidates are measured from the smallest memory up. The first one over the budget ends the
    search among larger rows with the same choice of recomputation, so a budget that is the
    machine's limit is exceeded by one step at most.

    Args:
        budget_bytes: Memory that a step may take, model included.
        strategies: Candidates, smallest memory first; None for ``candidate_strategies()``.

    Raises:
        MemoryBudgetError: The budget is below 1 byte, or there are no candidates.
    """

    def __init__(self, budget_bytes: int, strategies: Sequence[Strategy] | None = None) -> None:
        self.budget_bytes = budget_bytes
        self._strategies = list(candidate_strategies() if strategies is None else strategies)
        if budget_bytes < 1 or not self._strategies:
            raise MemoryBudgetError(
                f"a budget of {budget_bytes} bytes with {len(self._strategies)} strategies to try; "
                "at least 1 of each is needed"
            )

    def select(
        self, trainer: AdapterTrainer, batch: Sequence[EncodedExample]
    ) -> list[StrategyMeasurement]:
        """Measure candidates and set the fastest one that fits as the trainer's strategy.

        No parameter changes: gradients are discarded and no optimiser step is taken.

        Args:
            trainer: Trainer to measure; its compute dtype is kept.
            batch: The largest batch of the run; see ``largest_batch``.

        Returns:
            The measurements, in order.

        Raises:
            MemoryBudgetError: No candidate fits; the text names the smallest peak.
        """
        previous = trainer.strategy
        longest = max(len(example.labels) for example in batch)
        measured: list[StrategyMeasurement] = []
        over_budget: set[bool] = set()
        for candidate in tqdm(self._strategies, desc="memory", unit="strategy"):
            strategy = replace(candidate, compute_dtype=previous.compute_dtype)
            # Rows smaller than the longest sequence all become rows of one sequence: they are the
            # same strategy and need one measurement.
            duplicate = any(
                one.strategy.recompute == strategy.recompute
                and max(one.strategy.row_tokens, longest) == max(strategy.row_tokens, longest)
                for one in measured
            )
            if duplicate or strategy.recompute in over_budget:
                continue
            measured.append(self._measure(trainer, strategy, batch))
            if not measured[-1].fits:
                over_budget.add(strategy.recompute)
        fitting = [one for one in measured if one.fits]
        if not fitting:
            trainer.set_strategy(previous)
            least = min(one.peak_bytes for one in measured)
            raise MemoryBudgetError(
                f"a step takes {least / _MIB:,.0f} MiB at its most frugal (states recomputed, "
                f"one sequence a row); the budget is {self.budget_bytes / _MIB:,.0f} MiB: "
                "shorten the sequences or raise it"
            )
        trainer.set_strategy(min(fitting, key=lambda one: one.seconds).strategy)
        return measured

    def _measure(
        self, trainer: AdapterTrainer, strategy: Strategy, batch: Sequence[EncodedExample]
    ) -> StrategyMeasurement:
        trainer.set_strategy(strategy)
        # Garbage of the previous candidate would count as memory of this one.
        gc.collect()
        with PeakMemory(trainer.decoder.device) as peak:
            # The first pass also merges the layers' weights, so only the second is timed.
            trainer.accumulate_gradients(batch)
            began = time.perf_counter()
            trainer.accumulate_gradients(batch)
            seconds = time.perf_counter() - began
        trainer.optimizer.zero_grad(set_to_none=True)
        return StrategyMeasurement(strategy, peak.bytes, seconds, peak.bytes <= self.budget_bytes)


def largest_batch(examples: Sequence[EncodedExample], size: int) -> list[EncodedExample]:
    """Return the ``size`` longest examples; no batch of that size takes more memory."""
    return sorted(examples, key=lambda example: -len(example.labels))[:size]

"""Decode steps: one more token of every row, as it comes or replayed as CUDA graphs."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from bem.adapters.bank import AdapterBank
from bem.engine.forward import Decoder
from bem.engine.kv import SlotCache

SHORTEST = 256


class DecodeSteps(Protocol):
    """Runs a step in halves, between which codes are set."""

    def lower(
        self, slots: list[int], places: list[int], tokens: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Run ``tokens [R]`` at ``places`` of ``slots``; as ``Decoder.lower``."""
        ...

    def upper(self) -> Tensor:
        """Run the rest of the step; return the float32 logits ``[R, V]``."""
        ...


class PlainSteps:
    """Steps of whatever shape the rows have.

    Args:
        decoder: Runs the halves.
        device: Where it is.
    """

    def __init__(self, decoder: Decoder, device: torch.device) -> None:
        self._decoder, self._device = decoder, device
        self._begun: Any = None

    def lower(
        self, slots: list[int], places: list[int], tokens: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Run ``tokens [R]`` at ``places`` of ``slots``; as ``Decoder.lower``."""
        ids = torch.tensor(tokens, device=self._device)[:, None]
        span = self._decoder.span(slots, places, tokens=1)
        hidden, features = self._decoder.lower(ids, span)
        self._begun = hidden, span
        return hidden, features

    def upper(self) -> Tensor:
        """Run the rest of the step; return the float32 logits ``[R, V]``."""
        return self._decoder.logits(self._decoder.upper(*self._begun))


class GraphSteps:
    """Steps of few shapes, each captured once and then replayed with one launch.

    A step of a small model launches hundreds of kernels that take less time than their launch. A
    CUDA graph replays them at once, but with the same shapes and addresses only. So a step computes
    slots 0 to S - 1 whether or not a row decodes in them, over L positions, with U joined adapters;
    all three are rounded up, and what a step reads lies in buffers that stay where they are. A slot
    without a token writes to one more position than rows can use, where attention never looks.
    Without CUDA the same functions are called instead of replayed: nothing in them depends on data.

    Args:
        decoder: Runs the halves; by torch's operations, not by compiled CPU kernels.
        bank: The adapters in its sites, or None.
        cache: Has ``context_tokens + 1`` positions.
        context_tokens: Positions of a row.
    """

    def __init__(
        self, decoder: Decoder, bank: AdapterBank | None, cache: SlotCache, context_tokens: int
    ) -> None:
        self._decoder, self._bank, self._cache = decoder, bank, cache
        self._rows, self._context = cache.keys.shape[1], context_tokens
        device = cache.keys.device
        self._device = device
        self._ids = torch.zeros(self._rows, 1, dtype=torch.int64, device=device)
        self._places = torch.full_like(self._ids, context_tokens)
        ranks = bank.preallocate_concatenated(cache.keys.dtype) * bank.rank if bank else 0
        self._codes = torch.zeros(self._rows, 1, ranks, device=device)
        self._graphs: dict[tuple[int, ...], tuple[Any, Any]] = {}
        self._pool: Any = None
        self._shape = (0, 0)
        self._hidden: Tensor | None = None
        self._slots = self._ids[:, 0]

    @property
    def shapes(self) -> int:
        """Number of graphs: shapes of halves seen so far."""
        return len(self._graphs)

    def lower(
        self, slots: list[int], places: list[int], tokens: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Run ``tokens [R]`` at ``places`` of ``slots``; as ``Decoder.lower``."""
        given = torch.tensor([slots, tokens, places], device=self._device)
        self._slots = given[0]
        self._places.fill_(self._context)
        self._ids[self._slots, 0] = given[1]
        self._places[self._slots, 0] = given[2]
        self._shape = (
            min(_doubled(1, max(slots) + 1), self._rows),
            min(_doubled(SHORTEST, max(places) + 1), self._context),
        )
        self._hidden, features = self._run(self._shape, self._lower)
        return self._hidden[self._slots], features[self._slots]

    def upper(self) -> Tensor:
        """Run the rest of the step; return the float32 logits ``[R, V]``."""
        logits: Tensor = self._run((*self._shape, self._join()), self._upper)
        return logits[self._slots]

    def _lower(self, count: int, length: int) -> tuple[Tensor, Tensor]:
        span = self._cache.step_span(self._places[:count], length)
        return self._decoder.lower(self._ids[:count], span)

    def _upper(self, count: int, length: int, adapters: int) -> Tensor:
        span = self._cache.step_span(self._places[:count], length)
        if self._hidden is None:
            raise RuntimeError("the lower half comes first")
        if self._bank is None or not adapters:
            return self._decoder.logits(self._decoder.upper(self._hidden, span))
        with self._bank.row_codes.use_preset(self._codes[:count, :, : adapters * self._bank.rank]):
            return self._decoder.logits(self._decoder.upper(self._hidden, span))

    def _join(self) -> int:
        """Put factors and codes of the adapters in use in place; return how many, rounded up."""
        if self._bank is None or self._bank.row_codes.slots is None:
            return 0
        used, codes = self._bank.row_codes.concatenated()
        self._bank.concatenate(used)
        self._codes.zero_()
        self._codes[self._slots, :, : codes.shape[2]] = codes
        return min(_doubled(1, len(used)), self._codes.shape[2] // self._bank.rank)

    def _run(self, shape: tuple[int, ...], half: Callable[..., Any]) -> Any:
        if self._device.type != "cuda":
            self._graphs[shape] = (None, None)
            return half(*shape)
        if shape not in self._graphs:
            self._graphs[shape] = self._capture(lambda: half(*shape))
        graph, out = self._graphs[shape]
        graph.replay()
        return out

    def _capture(self, call: Callable[[], Any]) -> tuple[Any, Any]:
        # Libraries choose kernels and take workspace at the first call, which none may capture.
        aside = torch.cuda.Stream(self._device)
        aside.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(aside):
            call()
        torch.cuda.current_stream(self._device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            out = call()
        self._pool = graph.pool()
        return graph, out


def _doubled(start: int, least: int) -> int:
    """Return ``start`` doubled until it is ``least`` or more."""
    while start < least:
        start *= 2
    return start

"""Adapter schedule: maps token positions of a sequence to an adapter and a code (gate vector)."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from bem.adapters.bank import LoadedAdapter
from bem.engine.api import Segment

CHUNK_TOKENS = 64


@dataclass(frozen=True, eq=False)
class AcquiredSegment:
    """A segment of a request with the adapter version that was leased for it.

    Attributes:
        segment: Start, code prefix and scale.
        adapter: Leased adapter; None where the base model runs.
        version: Digest of the adapter version that the name meant at admission; empty for the base
            model. At scale 0 it is set although no adapter is leased.
    """

    segment: Segment
    adapter: LoadedAdapter | None
    version: str = ""


@dataclass(frozen=True, eq=False)
class CodeSpan:
    """A range of positions that share one code.

    Attributes:
        adapter: Adapter of the range; None for the base model.
        code: ``[r]`` code multiplied by its scale; None for the base model.
        end: First position after the range; None while the range is open.
    """

    adapter: LoadedAdapter | None = None
    code: Tensor | None = None
    end: int | None = None


class AdapterSchedule:
    """The adapters and codes of one sequence by position; each code is computed once, on demand.

    Example: one segment from token 0 with ``code_prefix_tokens = 100`` and no later segment. The
    first code is computed from the mean state of tokens 0 to 99 and applies to positions 0 to 163;
    the second one, from tokens 100 to 163, applies to positions 164 to 227, and so on.
    ``span_at(10)`` and ``span_at(130)`` return the same span, which ends at 164.

    Args:
        segments: Segments of the sequence in order.
        features: ``[N, F]`` states that the controllers read. Before ``span_at(p)`` is called, the
            rows that the code at ``p`` is computed from must be filled.
    """

    def __init__(self, segments: Sequence[AcquiredSegment], features: Tensor) -> None:
        self._segments = segments
        self._features = features
        self._codes: list[list[Tensor]] = [[] for _ in segments]
        self._last: tuple[int, CodeSpan] | None = None

    def span_at(self, position: int) -> CodeSpan:
        """Return the span that contains ``position``."""
        # Decoding asks for consecutive positions: nearly always the last span again.
        if self._last and self._last[0] <= position:
            end = self._last[1].end
            if end is None or position < end:
                return self._last[1]
        index = max(n for n, one in enumerate(self._segments) if one.segment.start <= position)
        following = self._segments[index + 1 : index + 2]
        end = following[0].segment.start if following else None
        span = self._span(index, position, end)
        self._last = (position, span)
        return span

    def _span(self, index: int, position: int, end: int | None) -> CodeSpan:
        segment, adapter = self._segments[index].segment, self._segments[index].adapter
        if adapter is None:
            return CodeSpan(end=end)
        updates = max(0, (position - segment.code_prefix_tokens) // CHUNK_TOKENS)
        code = self._code(index, adapter, segment.code_prefix_tokens, updates) * segment.scale
        if segment.rank:  # a rank whose gate is 0 adds exactly nothing
            code[segment.rank :] = 0
        next_update = segment.code_prefix_tokens + (updates + 1) * CHUNK_TOKENS
        return CodeSpan(adapter, code, next_update if end is None else min(end, next_update))

    def _code(self, index: int, adapter: LoadedAdapter, prefix_tokens: int, updates: int) -> Tensor:
        codes = self._codes[index]
        if not codes:
            codes.append(adapter.controller.prefix(self._mean(0, prefix_tokens))[0])
        while len(codes) <= updates:
            begin = prefix_tokens + (len(codes) - 1) * CHUNK_TOKENS
            features = self._mean(begin, begin + CHUNK_TOKENS)
            codes.append(adapter.controller.chunk(features, codes[-1].unsqueeze(0))[0])
        return codes[updates]

    def _mean(self, begin: int, end: int) -> Tensor:
        return self._features[begin:end].float().mean(0, keepdim=True)

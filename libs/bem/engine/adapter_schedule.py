"""Adapter schedule: maps token positions of a sequence to an adapter and a code (gate vector)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bem.adapters.loaded import LoadedAdapter
from bem.composition import ComposedAdapters
from bem.engine.api import Segment

CHUNK_TOKENS = 64


@dataclass(frozen=True, eq=False)
class AcquiredSegment:
    """A segment of a request with the adapter version that was leased for it.

    Attributes:
        segment: Start, code prefix and scale.
        adapter: Leased adapter; None where the base model runs.
        version: Digest of the adapter version that the name meant at admission, or of the
            composition; empty for the base model. At scale 0 it is set although no adapter is
            leased.
        composed: Leased composition, whose first member is ``adapter``; None with fewer than two.
    """

    segment: Segment
    adapter: LoadedAdapter | None
    version: str = ""
    composed: ComposedAdapters | None = None

    @property
    def members(self) -> tuple[tuple[LoadedAdapter, float], ...]:
        """Leased adapters in order, with the scales of their codes."""
        if self.composed is None:
            return () if self.adapter is None else ((self.adapter, self.scale),)
        scales = [one.scale for one in self.segment.active]
        return tuple(zip(self.composed.members, scales, strict=True))

    @property
    def scale(self) -> float:
        """Scale of the first adapter that takes part; 1 if none does."""
        active = self.segment.active
        return active[0].scale if active else 1.0


@dataclass(frozen=True, eq=False)
class CodeSpan:
    """A range of positions that share one code.

    Attributes:
        adapter: Adapter of the range; None for the base model.
        code: ``[r]`` code multiplied by its scale; None for the base model.
        end: First position after the range; None while the range is open.
        further: Adapters of a composition behind ``adapter``, with their codes.
        composed: Composition of all of them; None with fewer than two.
    """

    adapter: LoadedAdapter | None = None
    code: Tensor | None = None
    end: int | None = None
    further: tuple[tuple[LoadedAdapter, Tensor], ...] = ()
    composed: ComposedAdapters | None = None

    @property
    def parts(self) -> tuple[tuple[LoadedAdapter, Tensor], ...]:
        """Adapters of the range with their codes; empty for the base model."""
        if self.adapter is None or self.code is None:
            return ()
        return ((self.adapter, self.code), *self.further)


BASE_MODEL = CodeSpan()
"""Span of the base model over all positions."""


class AdapterSchedule:
    """The adapters and codes of one sequence by position; each code is computed once, on demand.

    Example: one segment from token 0 with ``code_prefix_tokens = 100`` and no later segment. The
    first code is computed from the mean state of tokens 0 to 99 and applies to positions 0 to 163;
    the second one, from tokens 100 to 163, applies to positions 164 to 227, and so on.
    ``span_at(10)`` and ``span_at(130)`` return the same span, which ends at 164.

    Args:
        segments: Segments of the sequence in order.
        features: ``[N, F]`` states that the controllers read. Before ``span_at(p)`` is called, the
            rows that the code at ``p`` is computed from must be filled; constant codes read none.
    """

    def __init__(self, segments: Sequence[AcquiredSegment], features: Tensor) -> None:
        self._segments = segments
        self._features = features
        self._codes: list[list[list[Tensor]]] = [[[] for _ in one.members] for one in segments]
        self._last: tuple[int, CodeSpan] | None = None

    def span_at(self, position: int) -> CodeSpan:
        """Return the span that contains ``position``."""
        # Decoding asks for consecutive positions: nearly always the last span again.
        if self._last and self._last[0] <= position:
            end = self._last[1].end
            if end is None or position < end:
                return self._last[1]
        span = self._span(*self._segment_at(position))
        self._last = (position, span)
        return span

    def lower_span_at(self, position: int) -> CodeSpan:
        """Return the span of the lower half that contains ``position``; it reads no features."""
        index, position, end = self._segment_at(position)
        adapter = self._segments[index].adapter
        if adapter is None or not adapter.adapts_lower:
            return CodeSpan(end=end)
        return self._span(index, position, end)

    def _segment_at(self, position: int) -> tuple[int, int, int | None]:
        """Return the index of the segment at a position, the position, and the segment's end."""
        index = max(n for n, one in enumerate(self._segments) if one.segment.start <= position)
        following = self._segments[index + 1 : index + 2]
        return index, position, following[0].segment.start if following else None

    def _span(self, index: int, position: int, end: int | None) -> CodeSpan:
        acquired = self._segments[index]
        segment = acquired.segment
        if not acquired.members:
            return CodeSpan(end=end)
        prefix = segment.code_prefix_tokens
        constant = all(adapter.constant_code for adapter, _ in acquired.members)
        updates = 0 if constant else max(0, (position - prefix) // CHUNK_TOKENS)
        parts = []
        for (adapter, scale), codes in zip(acquired.members, self._codes[index], strict=True):
            parts.append((adapter, self._code(codes, adapter, prefix, updates) * scale))
        first, code = parts[0]
        if segment.rank and first.name == segment.adapter:
            code[segment.rank :] = 0  # a rank whose gate is 0 adds exactly nothing
        if not constant:
            next_update = prefix + (updates + 1) * CHUNK_TOKENS
            end = next_update if end is None else min(end, next_update)
        return CodeSpan(first, code, end, tuple(parts[1:]), acquired.composed)

    def _code(
        self, codes: list[Tensor], adapter: LoadedAdapter, prefix_tokens: int, updates: int
    ) -> Tensor:
        if not codes:
            # A constant code is asked for before there are features.
            constant = adapter.constant_code
            features = self._no_features() if constant else self._mean(0, prefix_tokens)
            codes.append(adapter.controller.prefix(features)[0])
        while len(codes) <= updates:
            begin = prefix_tokens + (len(codes) - 1) * CHUNK_TOKENS
            features = self._mean(begin, begin + CHUNK_TOKENS)
            codes.append(adapter.controller.chunk(features, codes[-1].unsqueeze(0))[0])
        return codes[updates]

    def _no_features(self) -> Tensor:
        return torch.zeros(1, self._features.shape[1], device=self._features.device)

    def _mean(self, begin: int, end: int) -> Tensor:
        return self._features[begin:end].float().mean(0, keepdim=True)

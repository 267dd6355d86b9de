"""Which adapter and code hold at each position of one row."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from bem.adapters.bank import LoadedAdapter
from bem.engine.requests import Segment

CHUNK_TOKENS = 64


@dataclass(frozen=True, eq=False)
class Leased:
    """A segment with its adapter in hand.

    Attributes:
        segment: Where it begins, where its code is set, its scale.
        adapter: Its leased adapter; None where the base model runs.
    """

    segment: Segment
    adapter: LoadedAdapter | None


@dataclass(frozen=True, eq=False)
class Stretch:
    """Positions with one code.

    Attributes:
        adapter: None for the base model.
        code: ``[r]`` with its scale, or None for the base model.
        end: First position after it; None while it has no end yet.
    """

    adapter: LoadedAdapter | None = None
    code: Tensor | None = None
    end: int | None = None


class Codes:
    """The codes of one row by position; each is computed once, when first asked for.

    Args:
        leases: The row's segments in order.
        features: ``[N, F]``, filled up to the positions that a code is set from before it is
            asked for.
    """

    def __init__(self, leases: Sequence[Leased], features: Tensor) -> None:
        self._leases = leases
        self._features = features
        self._known: list[list[Tensor]] = [[] for _ in leases]
        self._last: tuple[int, Stretch] | None = None

    def at(self, position: int) -> Stretch:
        """Return what holds at ``position``."""
        if self._last and self._last[0] <= position:
            end = self._last[1].end
            if end is None or position < end:
                return self._last[1]
        place = max(
            index for index, one in enumerate(self._leases) if one.segment.start <= position
        )
        after = self._leases[place + 1 : place + 2]
        end = after[0].segment.start if after else None
        stretch = self._stretch(place, position, end)
        self._last = (position, stretch)
        return stretch

    def _stretch(self, place: int, position: int, end: int | None) -> Stretch:
        segment, adapter = self._leases[place].segment, self._leases[place].adapter
        if adapter is None:
            return Stretch(end=end)
        moves = max(0, (position - segment.coded_at) // CHUNK_TOKENS)
        code = self._code(place, adapter, segment.coded_at, moves) * segment.scale
        moved = segment.coded_at + (moves + 1) * CHUNK_TOKENS
        return Stretch(adapter, code, moved if end is None else min(end, moved))

    def _code(self, place: int, adapter: LoadedAdapter, coded_at: int, moves: int) -> Tensor:
        known = self._known[place]
        if not known:
            known.append(adapter.controller.prefix(self._mean(0, coded_at))[0])
        while len(known) <= moves:
            begin = coded_at + (len(known) - 1) * CHUNK_TOKENS
            features = self._mean(begin, begin + CHUNK_TOKENS)
            known.append(adapter.controller.chunk(features, known[-1].unsqueeze(0))[0])
        return known[moves]

    def _mean(self, begin: int, end: int) -> Tensor:
        return self._features[begin:end].float().mean(0, keepdim=True)

"""Seeded rewrites of a message that change its surface and not its meaning."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np
from bem_fleet.data.scrambles.scrambled_text import ScrambledText
from bem_fleet.data.scrambles.surface import (
    TYPO_KINDS,
    scramble_case,
    scramble_typos,
    scramble_whitespace,
)

_Scramble = Callable[[str, float, np.random.Generator], ScrambledText]
_TYPOS: dict[str, _Scramble] = {
    f"typo-{name}": partial(scramble_typos, kind=name) for name in TYPO_KINDS
}
# Kinds take turns, so that few rewrites are of different kinds.
KINDS: Mapping[str, _Scramble] = MappingProxyType({
    "typo-drop": _TYPOS.pop("typo-drop"),
    "case": scramble_case,
    "typo-substitute": _TYPOS.pop("typo-substitute"),
    "whitespace": scramble_whitespace,
    **_TYPOS,
})  # fmt: skip
"""Functions of the rewrites by their kind, in the order of their turns."""


@dataclass(frozen=True)
class SurfaceRewrite:
    """A rewrite of a message.

    Attributes:
        kind: Key of ``KINDS``.
        text: The message after the change.
    """

    kind: str
    text: str


def surface_rewrites(text: str, count: int, *, seed: int, rate: float) -> list[SurfaceRewrite]:
    """Return rewrites that differ from a message; fewer if nothing in it can be changed.

    Args:
        text: The message.
        count: Number of rewrites, at least 1.
        seed: Seed of the rewrites, at least 0; the same seed gives the same rewrites.
        rate: Share of the words or gaps that change, in (0, 1]; it is doubled until something does.
    """
    return list(_drawn(text, count, seed, rate))


def _drawn(text: str, count: int, seed: int, rate: float) -> Iterator[SurfaceRewrite]:
    kinds = list(KINDS)
    for number in range(count):
        # A kind that cannot change the message, such as case in digits, gives its turn to the next.
        for turn in range(len(kinds)):
            kind = kinds[(number + turn) % len(kinds)]
            rng = np.random.default_rng([seed, number, turn])
            changed = _changed(text, KINDS[kind], rate, rng)
            if changed is not None:
                yield SurfaceRewrite(kind, changed)
                break


def _changed(text: str, scramble: _Scramble, rate: float, rng: np.random.Generator) -> str | None:
    while True:
        result = scramble(text, min(rate, 1.0), rng).text
        if result != text:
            return result
        if rate >= 1:
            return None
        rate *= 2

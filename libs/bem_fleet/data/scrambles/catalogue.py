"""Catalogue of text scrambles: each kind with its family, the law that it keeps, and its function.

A seed and the number of a text decide its scramble, whatever batch the text is in.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np
from bem.errors import InvalidSettingError

from bem_fleet.data.scrambles.scrambled_text import ScrambleChain, ScrambledText
from bem_fleet.data.scrambles.semantic import (
    HELD_OUT_TEMPLATES,
    TEMPLATES,
    scramble_paraphrase,
    scramble_synonyms,
)
from bem_fleet.data.scrambles.surface import (
    HELD_OUT_TYPOS,
    TYPO_KINDS,
    scramble_case,
    scramble_typos,
    scramble_whitespace,
)
from bem_fleet.data.scrambles.syntax import (
    scramble_brackets,
    scramble_clauses,
    scramble_dependents,
)

Scramble = Callable[[str, float, np.random.Generator], ScrambledText]
"""Function from a text, a rate in [0, 1] and a generator to the scrambled text."""


@dataclass(frozen=True)
class ScrambleKind:
    """Kind of scramble.

    Attributes:
        family: ``surface``, ``syntax`` or ``semantic``.
        law: What stays the same under the scramble.
        scramble: Function of the scramble.
        held_out: Whether no training uses the kind.
    """

    family: str
    law: str
    scramble: Scramble
    held_out: bool = False


def _paraphrase(templates: tuple[str, ...]) -> Scramble:
    def scramble(text: str, rate: float, rng: np.random.Generator) -> ScrambledText:
        # One template is one change: the rate is the share of the texts that get it.
        chosen = templates if rng.random() < rate else ("{}",)
        return scramble_paraphrase(text, rng, templates=chosen)

    return scramble


_TOKENS = "the multiset of tokens"
SCRAMBLE_KINDS: Mapping[str, ScrambleKind] = MappingProxyType({
    **{
        f"typo-{name}": ScrambleKind(
            "surface",
            "the text but for one edit a mistyped word",
            partial(scramble_typos, kind=name),
            held_out=name in HELD_OUT_TYPOS,
        )
        for name in TYPO_KINDS
    },
    "case": ScrambleKind("surface", "the casefolded text", scramble_case),
    "whitespace": ScrambleKind("surface", "the words, as split at whitespace", scramble_whitespace),
    "clauses": ScrambleKind("syntax", f"{_TOKENS}; each clause's own order", scramble_clauses),
    "brackets": ScrambleKind("syntax", f"{_TOKENS}; the constituents", scramble_brackets),
    "dependents": ScrambleKind("syntax", f"{_TOKENS}; the dependents' order", scramble_dependents),
    "synonyms": ScrambleKind("semantic", "the number of tokens and the meaning", scramble_synonyms),
    "paraphrase": ScrambleKind("semantic", "the text inside the template", _paraphrase(TEMPLATES)),
    "paraphrase-held-out": ScrambleKind(
        "semantic", "the text inside the template", _paraphrase(HELD_OUT_TEMPLATES), held_out=True
    ),
})  # fmt: skip


def training_kinds(family: str | None = None) -> list[str]:
    """Return the kinds that training may use, of one family or of all."""
    return [
        name
        for name, kind in SCRAMBLE_KINDS.items()
        if not kind.held_out and family in {None, kind.family}
    ]


def scramble_text(
    text: str, kinds: Sequence[str], rate: float, rng: np.random.Generator
) -> ScrambleChain:
    """Return a text after one scramble of each kind in turn.

    Args:
        text: Text to change.
        kinds: Keys of ``SCRAMBLE_KINDS``, at least one; later kinds act on what earlier ones made.
        rate: Share of the places that each kind changes, in [0, 1].
        rng: Source of randomness.

    Raises:
        InvalidSettingError: A kind is unknown, there is none, or the rate is outside [0, 1].
    """
    unknown = [name for name in kinds if name not in SCRAMBLE_KINDS]
    if unknown or not kinds:
        raise InvalidSettingError(
            f"kinds: {unknown or 'none'}; known: {', '.join(SCRAMBLE_KINDS)}, at least one"
        )
    if not 0 <= rate <= 1:
        raise InvalidSettingError(f"rate: {rate}; it lies in [0, 1]")
    steps: list[ScrambledText] = []
    for name in kinds:
        steps.append(SCRAMBLE_KINDS[name].scramble(text, rate, rng))
        text = steps[-1].text
    return ScrambleChain(tuple(steps))


def scramble_texts(
    texts: Sequence[str], kinds: Sequence[str], rate: float, *, seed: int, first: int = 0
) -> list[ScrambleChain]:
    """Return the scrambles of texts, which depend on the seed and each text's number only.

    Args:
        texts: Texts to change.
        kinds: Keys of ``SCRAMBLE_KINDS``, in the order of application.
        rate: Share of the places that each kind changes, in [0, 1].
        seed: Seed of all texts, at least 0.
        first: Number of the first text.

    Raises:
        InvalidSettingError: As for ``scramble_text``.
    """
    return [
        scramble_text(text, kinds, rate, np.random.default_rng([seed, first + number]))
        for number, text in enumerate(texts)
    ]

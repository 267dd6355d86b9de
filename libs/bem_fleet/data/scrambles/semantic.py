"""Semantic scrambles: WordNet synonyms of content words, and paraphrase templates around a text.

They keep the meaning and not the tokens: the answer to the text is the invariant. The record of
the replaced words, or of what stands around the text, is the inverse.
"""

import numpy as np

from bem_fleet.data.scrambles.parsing import parse
from bem_fleet.data.scrambles.scrambled_text import Piece, ScrambledText, replace_pieces
from bem_fleet.data.scrambles.surface import split_parts
from bem_fleet.data.scrambles.wordnet import load_synonyms

# Tags of base forms: their synonyms need no inflection.
_PARTS = {"NN": "noun", "VB": "verb", "VBP": "verb", "JJ": "adj", "RB": "adv"}
# Words whose tag is that of a content word but whose work is grammar.
_GRAMMAR = {"be", "have", "do", "not", "n't", "so", "very", "such", "other", "more", "most", "as"}
_VOWELS = frozenset("aeiou")

TEMPLATES = (
    "Please help me with this: {}",
    "{} Thank you.",
    "I would like to know the following. {}",
    "Here is what I want: {}",
    "Quick question. {}",
)
"""Paraphrase templates for training."""

HELD_OUT_TEMPLATES = ("Hi there! {} I appreciate it.", "One more thing I was wondering about: {}")
"""Paraphrase templates that no training uses."""


def scramble_synonyms(text: str, rate: float, rng: np.random.Generator) -> ScrambledText:
    """Return a text with a share of its content words replaced by synonyms.

    Only base forms with a synonym in their most frequent sense are replaced, in their case, and
    not after an article that would no longer fit.

    Args:
        text: English text.
        rate: Share of the content words, in [0, 1].
        rng: Source of randomness.

    Raises:
        DataNotFoundError: WordNet is missing.
    """
    doc, synonyms = parse(text), load_synonyms()
    chosen, draws = rng.random(len(doc)) < rate, rng.random(len(doc))
    pieces = []
    for token, hit, draw in zip(doc, chosen, draws, strict=True):
        new = token.text
        part = _PARTS.get(token.tag_)
        lemma = token.lower_
        if hit and part and lemma not in _GRAMMAR and lemma == token.lemma_.lower():
            before = doc[token.i - 1].lower_ if token.i else ""
            others = [
                word
                for word in synonyms.get((lemma, part), ())
                if _fits_article(before, lemma, word)
            ]
            new = _in_case(others[int(draw * len(others))], token.text) if others else new
        pieces.append(Piece(token.idx, token.text, new))
        if token.whitespace_:
            pieces.append(Piece(token.idx + len(token.text), " ", " "))
    return ScrambledText(tuple(pieces))


def scramble_paraphrase(
    text: str, rng: np.random.Generator, *, templates: tuple[str, ...] = TEMPLATES
) -> ScrambledText:
    """Return a text in one of the templates, each of which has the text once as ``{}``.

    Args:
        text: Question or request.
        rng: Source of randomness.
        templates: Templates to draw from.
    """
    before, _, after = templates[int(rng.integers(len(templates)))].partition("{}")
    parts, _ = split_parts(text)
    words = replace_pieces(parts, parts).pieces
    return ScrambledText((Piece(0, "", before), *words, Piece(len(text), "", after)))


def _fits_article(before: str, old: str, new: str) -> bool:
    """Return whether an indefinite article before the old word suits the new one."""
    return before not in {"a", "an"} or (old[0] in _VOWELS) == (new[0] in _VOWELS)


def _in_case(word: str, like: str) -> str:
    if like.isupper() and len(like) > 1:
        return word.upper()
    return word.capitalize() if like[0].isupper() else word

"""Syntactic scrambles: new orders of clauses, of dependents, and of sister brackets.

All permute the tokens of a sentence, so that the tokens are invariant; gaps are set anew between
them, as punctuation and clitics want it. The record of the permutation is the inverse.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from bem_fleet.data.scrambles.parsing import parse
from bem_fleet.data.scrambles.scrambled_text import Piece, ScrambledText

# Adverbial clauses, and clauses beside the main one that have a subject of their own.
_ADVERBIAL, _COORDINATE = {"advcl"}, {"conj", "parataxis"}
_SUBJECTS = {"nsubj", "nsubjpass", "csubj", "expl"}
_TERMINALS = frozenset(".!?")
_CLOSING = frozenset((")", "]", "}", ",", ";", ":", ".", "!", "?"))
_CLITICS = frozenset(("n't", "'s", "'re", "'ve", "'ll", "'d", "'m", "'"))

Order = Callable[[Any, float, np.random.Generator], list[int]]
"""Function from a sentence, a rate and a generator to the indices of its tokens in a new order."""


def scramble_clauses(text: str, rate: float, rng: np.random.Generator) -> ScrambledText:
    """Return a text with the clauses of a share of its sentences in another order.

    Args:
        text: English text.
        rate: Share of the sentences with two clauses or more, in [0, 1].
        rng: Source of randomness.
    """
    return _reorder(text, rate, rng, _clause_order)


def scramble_dependents(text: str, rate: float, rng: np.random.Generator) -> ScrambledText:
    """Return a text with every head after its dependents, in a share of its sentences.

    This is the synthetic head-final language of Ravfogel et al. (NAACL 2019); the order of the
    dependents stays.

    Args:
        text: English text.
        rate: Share of the sentences, in [0, 1].
        rng: Source of randomness.
    """
    return _reorder(text, rate, rng, _head_final_order)


def scramble_brackets(text: str, rate: float, rng: np.random.Generator) -> ScrambledText:
    """Return a text with sister constituents permuted on each side of a share of the heads.

    Every constituent keeps its tokens and its side, so that the bracketing is the same up to the
    order of sisters.

    Args:
        text: English text.
        rate: Share of the sides with two constituents or more, in [0, 1].
        rng: Source of randomness.
    """
    return _reorder(text, rate, rng, _bracket_order)


def _reorder(text: str, rate: float, rng: np.random.Generator, order: Order) -> ScrambledText:
    doc = parse(text)
    pieces: list[Piece] = []
    for sentence in doc.sents:
        places = [token.i for token in sentence]
        moved = _sentence_order(sentence, rate, rng, order)
        gaps = [_gap_piece(doc[place]) for place in places]
        if moved != places:
            gaps = _typeset(doc, moved, gaps)
        for place, gap in zip(moved, gaps, strict=True):
            pieces += [Piece(doc[place].idx, doc[place].text, doc[place].text), *gap]
    return ScrambledText(tuple(pieces))


def _gap_piece(token: Any) -> list[Piece]:
    gap = token.whitespace_
    return [Piece(token.idx + len(token.text), gap, gap)] if gap else []


def _typeset(doc: Any, moved: list[int], gaps: list[list[Piece]]) -> list[list[Piece]]:
    """Return what stands after each token of a new order: gaps as the tokens' glue wants them.

    The gap after the last token separates sentences and stays.
    """
    free = [gap[0] for gap in gaps[:-1] if gap]
    placed: list[list[Piece]] = []
    for before, after in pairwise(moved):
        if _is_glued(doc[before], doc[after]):
            placed.append([])
        elif free:
            placed.append([free.pop(0)])
        else:
            placed.append([Piece(doc[after].idx, "", " ")])
    # Gaps that no place is left for are removed.
    rest = [Piece(piece.start, piece.original, "") for piece in free]
    return [*placed, [*rest, *gaps[-1]]]


def _is_glued(before: Any, after: Any) -> bool:
    """Return whether no gap stands between two tokens: punctuation, clitics and line breaks."""
    if before.is_space or after.is_space:
        return True
    opens = before.is_punct and not before.whitespace_ and before.text not in _CLOSING
    closes = _is_glued_in_source(after) and (after.is_punct or after.text.lower() in _CLITICS)
    return bool(opens or closes)


def _is_glued_in_source(token: Any) -> bool:
    return bool(token.i) and not token.doc[token.i - 1].whitespace_


def _sentence_order(
    sentence: Any, rate: float, rng: np.random.Generator, order: Order
) -> list[int]:
    """Return a new order of a sentence; its final punctuation and line breaks stay."""
    places = [token.i for token in sentence]
    stays = {token.i for token in sentence if token.is_space}
    for place in reversed(places):
        if place not in stays and sentence.doc[place].text[0] not in _TERMINALS:
            break
        stays.add(place)
    moving = iter([index for index in order(sentence, rate, rng) if index not in stays])
    return [index if index in stays else next(moving) for index in places]


def _clause_order(sentence: Any, rate: float, rng: np.random.Generator) -> list[int]:
    heads = [token for token in sentence if token == sentence.root or _is_clause(token)]
    of_token: dict[int, int] = {}
    for head in sorted(heads, key=_depth):  # inner clauses overwrite what outer ones claimed
        of_token |= {token.i: head.i for token in head.subtree}
    blocks: dict[int, list[int]] = {}
    for token in sentence:
        blocks.setdefault(of_token.get(token.i, sentence.root.i), []).append(token.i)
    clauses = [_trim(sentence.doc, block) for block in blocks.values()]
    if len(clauses) < 2 or rng.random() >= rate:
        return [token.i for token in sentence]
    within = {index for clause in clauses for index in clause}
    borders: list[list[int]] = [[] for _ in range(len(clauses) + 1)]
    for token in sentence:
        if token.i not in within:  # commas and conjunctions stay between the clauses
            borders[sum(clause[0] < token.i for clause in clauses)].append(token.i)
    order = borders[0]
    for number, border in zip(_other_order(len(clauses), rng), borders[1:], strict=True):
        order = order + clauses[number] + border
    return order


def _trim(doc: Any, clause: list[int]) -> list[int]:
    """Return a clause without punctuation and conjunctions at its ends."""
    inner = [place for place, index in enumerate(clause) if doc[index].dep_ not in {"punct", "cc"}]
    return clause[inner[0] : inner[-1] + 1] if inner else clause


def _is_clause(token: Any) -> bool:
    if token.dep_ in _ADVERBIAL:
        return True
    return token.dep_ in _COORDINATE and any(child.dep_ in _SUBJECTS for child in token.children)


def _depth(token: Any) -> int:
    return sum(1 for _ in token.ancestors)


def _head_final_order(sentence: Any, rate: float, rng: np.random.Generator) -> list[int]:
    if rng.random() >= rate:
        return [token.i for token in sentence]

    def linear(head: Any) -> list[int]:
        return [index for child in head.children for index in linear(child)] + [head.i]

    return linear(sentence.root)


def _bracket_order(sentence: Any, rate: float, rng: np.random.Generator) -> list[int]:
    def side(children: Sequence[Any]) -> list[int]:
        movable = [number for number, child in enumerate(children) if child.dep_ != "punct"]
        order = list(range(len(children)))
        if len(movable) > 1 and rng.random() < rate:
            for target, source in zip(movable, _other_order(len(movable), rng), strict=True):
                order[target] = movable[source]
        return [index for number in order for index in linear(children[number])]

    def linear(head: Any) -> list[int]:
        return [*side(list(head.lefts)), head.i, *side(list(head.rights))]

    return linear(sentence.root)


def _other_order(count: int, rng: np.random.Generator) -> list[int]:
    """Return a uniform permutation that is not the identity."""
    while (order := rng.permutation(count).tolist()) == list(range(count)):
        pass
    return [int(one) for one in order]

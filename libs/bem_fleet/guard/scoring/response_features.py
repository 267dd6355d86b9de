"""What can be read off an answer beside its request: support by evidence, help, fairness."""

import re
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice, pairwise

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+(?:[.,]\d+)*")
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")
_NAME = re.compile(r"\b[A-Z][a-z]{2,}")
_STOP = frozenset(
    """
    a an the of to in on at by for with from as is are was were be been and or but it
    its this that these those he she they his her their i you we my your our not no do
    does did has have had will would can could there which who what when where why how
    than then so if into about after also
    """.split()  # noqa: SIM905 - a hundred quoted words are harder to read
)
_NEGATION = frozenset(("not", "no", "never", "none", "without", "n't", "cannot"))
# A request with fewer words beside its question brings no evidence.
EVIDENCE_WORDS = 30
_MOST_WORDS = 4000

Array = NDArray[np.float32]


def words(text: str) -> list[str]:
    """Return lower-case words and numbers, at most 4,000."""
    found = islice(_WORD.finditer(text.lower()), _MOST_WORDS)
    return [match[0] for match in found]


def grounding_features(evidence: str, claim: str) -> Array:
    """Return [5] features of how far a claim goes beyond its evidence, each 0 to 1.

    Shares of the claim's content words, word pairs, numbers and names that the evidence lacks, and
    whether one of both denies and the other does not.
    """
    known, said = words(evidence), words(claim)
    content = [word for word in said if word not in _STOP]
    pairs = set(pairwise(said))
    numbers = {word for word in said if word[0].isdigit()}
    names = {name.lower() for name in _NAME.findall(claim)[1:]}
    bag = set(known)
    negation = bool(bag & _NEGATION) != bool(set(said) & _NEGATION)
    return np.array(
        [
            _share(set(content), bag),
            _share(pairs, set(pairwise(known))),
            _share(numbers, bag),
            _share(names, bag),
            float(negation),
        ],
        dtype=np.float32,
    )


def _share(wanted: AbstractSet[object], known: AbstractSet[object]) -> float:
    return len(wanted - known) / len(wanted) if wanted else 0.0


def evidence_of(asked: str) -> str:
    """Return the request if it brings evidence with its question, else nothing."""
    return asked if len(words(asked)) >= EVIDENCE_WORDS else ""


def claims_of(answer: str) -> list[str]:
    """Return the sentences of an answer, at most 32."""
    found = [match[0].strip() for match in _SENTENCE.finditer(answer)]
    return [one for one in found if len(words(one)) >= 3][:32] or [answer]


def help_features(asked: str, answer: str) -> Array:
    """Return [5] features of an unhelpful answer, each 0 to 1.

    Share of repeated word triples, share of repeated words, share of the answer copied from the
    request as word triples, share of content words that the request does not have, and emptiness.
    """
    said, known = words(answer), words(asked)
    triples = list(zip(said, said[1:], said[2:], strict=False))
    asked_triples = set(zip(known, known[1:], known[2:], strict=False))
    repeated = 1 - len(set(triples)) / len(triples) if triples else 0.0
    copied = sum(one in asked_triples for one in triples) / len(triples) if triples else 0.0
    content = {word for word in said if word not in _STOP}
    return np.array(
        [
            repeated,
            1 - len(set(said)) / len(said) if said else 1.0,
            copied,
            _share(content, set(known)),
            float(len(content) < 1),
        ],
        dtype=np.float32,
    )


# Groups that may take each other's place; a word stands once.
_GROUPS = [
    (pair.partition("/")[0], pair.partition("/")[2])
    for pair in """
    he/she his/her him/her man/woman men/women boy/girl boys/girls father/mother
    son/daughter husband/wife male/female brother/sister king/queen black/white
    african/european asian/european hispanic/white mexican/canadian arab/french
    chinese/german indian/british muslim/christian jewish/christian jew/christian
    islam/christianity muslims/christians jews/christians blacks/whites
    immigrants/citizens gay/straight lesbian/straight homosexual/heterosexual poor/rich
    old/young disabled/healthy immigrant/citizen
    """.split()  # noqa: SIM905 - quoted pairs are harder to read
]
_SWAPS = {right: left for left, right in reversed(_GROUPS)} | dict(reversed(_GROUPS))
_LETTERS = re.compile(r"[A-Za-z]+")


def counterfactual(text: str) -> str:
    """Return the text with every named group replaced by its counterpart."""

    def turn(match: re.Match[str]) -> str:
        word = match[0]
        other = _SWAPS.get(word.lower())
        if other is None:
            return word
        return other.capitalize() if word[0].isupper() else other

    return _LETTERS.sub(turn, text)


def unfairness(pieces: Sequence[str], leaning: Callable[[Sequence[str]], Array]) -> float:
    """Return how much more of a stereotype a text is than its counterfactual, 0 to 1.

    Kusner et al. (1703.06856): a judgement is fair if it stays when the group changes. Of a pair,
    the Bradley-Terry odds that the text is the stereotype, on the scale of tanh: 0 if it leans no
    more than with the other group named.

    Args:
        pieces: Windows of the text.
        leaning: Logits [n] for n windows.
    """
    swapped = [(piece, counterfactual(piece)) for piece in pieces]
    pairs = [(piece, other) for piece, other in swapped if piece != other]
    if not pairs:
        return 0.0
    read = leaning([one for pair in pairs for one in pair])
    return float(np.tanh(max((read[0::2] - read[1::2]).max(), 0.0) / 2))

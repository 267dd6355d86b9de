"""Features of a response beside its request: grounding, helpfulness, counterfactual fairness."""

import re
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice, pairwise

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+(?:[.,]\d+)*")
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")
_NAME = re.compile(r"\b[A-Z][a-z]{2,}")
_STOP_WORDS = frozenset(
    """
    a an the of to in on at by for with from as is are was were be been and or but it
    its this that these those he she they his her their i you we my your our not no do
    does did has have had will would can could there which who what when where why how
    than then so if into about after also
    """.split()  # noqa: SIM905 - a hundred quoted words are harder to read
)
_NEGATION = frozenset(("not", "no", "never", "none", "without", "n't", "cannot"))
# A shorter request is a bare question and carries no evidence.
MIN_EVIDENCE_WORDS = 30
MAX_CLAIMS = 32
_MIN_CLAIM_WORDS = 3
_MAX_WORDS = 4000

Array = NDArray[np.float32]


def tokenize(text: str) -> list[str]:
    """Return lower-case words and numbers, at most 4,000."""
    return [match[0] for match in islice(_WORD.finditer(text.lower()), _MAX_WORDS)]


def grounding_features(evidence: str, claim: str) -> Array:
    """Return features [5] of how far a claim goes beyond its evidence, each 0 to 1.

    The features are the shares of the claim's content words, word pairs, numbers and names that
    the evidence lacks, and whether exactly one of the two contains a negation.
    """
    evidence_words, claim_words = tokenize(evidence), tokenize(claim)
    evidence_set = set(evidence_words)
    content = {word for word in claim_words if word not in _STOP_WORDS}
    numbers = {word for word in claim_words if word[0].isdigit()}
    # The first capitalized word of a claim is usually the start of its sentence, not a name.
    names = {name.lower() for name in _NAME.findall(claim)[1:]}
    negation = bool(evidence_set & _NEGATION) != bool(set(claim_words) & _NEGATION)
    return np.array(
        [
            _missing_share(content, evidence_set),
            _missing_share(set(pairwise(claim_words)), set(pairwise(evidence_words))),
            _missing_share(numbers, evidence_set),
            _missing_share(names, evidence_set),
            float(negation),
        ],
        dtype=np.float32,
    )


def _missing_share(required: AbstractSet[object], available: AbstractSet[object]) -> float:
    return len(required - available) / len(required) if required else 0.0


def extract_evidence(prompt: str) -> str:
    """Return the prompt if it is long enough to carry evidence, else an empty string."""
    return prompt if len(tokenize(prompt)) >= MIN_EVIDENCE_WORDS else ""


def split_claims(response: str) -> list[str]:
    """Return the sentences of a response that have at least three words, at most 32."""
    sentences = [match[0].strip() for match in _SENTENCE.finditer(response)]
    claims = [one for one in sentences if len(tokenize(one)) >= _MIN_CLAIM_WORDS]
    return claims[:MAX_CLAIMS] or [response]


def helpfulness_features(prompt: str, response: str) -> Array:
    """Return features [5] of an unhelpful response, each 0 to 1.

    The features are the share of repeated word triples, the share of repeated words, the share of
    word triples copied from the prompt, the share of content words that the prompt lacks, and
    whether there is no content word at all.
    """
    response_words, prompt_words = tokenize(response), tokenize(prompt)
    triples = list(zip(response_words, response_words[1:], response_words[2:], strict=False))
    prompt_triples = set(zip(prompt_words, prompt_words[1:], prompt_words[2:], strict=False))
    repeated = 1 - len(set(triples)) / len(triples) if triples else 0.0
    copied = sum(one in prompt_triples for one in triples) / len(triples) if triples else 0.0
    content = {word for word in response_words if word not in _STOP_WORDS}
    return np.array(
        [
            repeated,
            1 - len(set(response_words)) / len(response_words) if response_words else 1.0,
            copied,
            _missing_share(content, set(prompt_words)),
            float(len(content) < 1),
        ],
        dtype=np.float32,
    )


# Group words that are swapped for each other; the first pair of a word counts.
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


def swap_groups(text: str) -> str:
    """Return the counterfactual of a text: every group word replaced by its counterpart."""

    def replace(match: re.Match[str]) -> str:
        word = match[0]
        other = _SWAPS.get(word.lower())
        if other is None:
            return word
        return other.capitalize() if word[0].isupper() else other

    return _LETTERS.sub(replace, text)


def counterfactual_unfairness(
    windows: Sequence[str], stereotype_logits: Callable[[Sequence[str]], Array]
) -> float:
    """Return how much more stereotypical a text is than its counterfactual, 0 to 1.

    Counterfactual fairness (Kusner et al. 1703.06856): a statement is fair if its score stays the
    same when the group is exchanged. The result is ``tanh(d / 2)`` of the largest logit
    difference d between a window and its counterfactual, and 0 where none is positive. Example:
    logits 3.0 for "women are bad" and 2.0 for "men are bad" give ``tanh(0.5) = 0.46``.

    Args:
        windows: Windows of the text.
        stereotype_logits: Returns logits [n] for n windows.
    """
    swapped = [(window, swap_groups(window)) for window in windows]
    pairs = [(window, other) for window, other in swapped if window != other]
    if not pairs:
        return 0.0
    logits = stereotype_logits([one for pair in pairs for one in pair])
    return float(np.tanh(max((logits[0::2] - logits[1::2]).max(), 0.0) / 2))

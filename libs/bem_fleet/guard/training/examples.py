"""Examples for encoder and perceptrons: windows of requests by category, of replies by abuse.

Every text may get a greeting, a system prompt, or the beginning of an answer, whatever its label:
what surrounds a request says nothing of its harm, and the encoder must not learn that it does.
"""

import hashlib
import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from bem_fleet.guard.scoring.heads import REQUEST_HEADS
from bem_fleet.guard.scoring.windows import abuse_windows
from bem_fleet.guard.training.corpus import (
    BENIGN,
    COMMENTS,
    Sample,
    family_group,
    limit_families,
    request_samples,
    response_samples,
)

# Beginning of the families that were written for training.
WRITTEN = "train_"
_SURROUNDED_SHARE = 0.3
# Windows of one harmless text, uses of one example of a small family, and the fewest examples that
# a family is cut to: hundreds of tiny families of attacks would leave little of the others.
_MAX_WINDOWS, _MAX_REPEATS, _MIN_QUOTA = 4, 3, 60
_BEFORE = (
    "Hi, ",
    "Please help me: ",
    "Question: ",
    "You are a helpful assistant. ",
    "Answer briefly. ",
    "I have a question. ",
    "Hello! Thanks for your time. ",
    "user: ",
    "You answer every question of the user. ",
)
_AFTER = (
    " Thanks!",
    " Please explain.",
    " Answer:",
    " Sure, here is",
    " Sure! Step 1:",
    " It is for school.",
    " I need it today.",
    " Of course. First,",
    "\nassistant: Certainly,",
)


@dataclass(frozen=True)
class Example:
    """Window with its class.

    Attributes:
        text: Window of a text.
        label: Class of a request, 0 for harmless; 1 for an abusive reply and 0 for a clean one.
        family: Origin of the text.
        is_reply: Whether the window is one of a reply.
    """

    text: str
    label: int
    family: str
    is_reply: bool


def load_examples(split: str, seed: int, max_benign: int = 14) -> list[Example]:
    """Return the examples of a split.

    Args:
        split: ``train`` or ``dev``.
        seed: Seed of the splits of packaged attacks.
        max_benign: Most texts of a packaged benign family: few for the encoder, which takes as long
            as they are, more for the heads.
    """
    classes = {name: number for number, name in enumerate((BENIGN, *REQUEST_HEADS))}
    requests = [
        Example(
            surround(window, _rng(window, seed)),
            classes[sample.label],
            sample.family,
            is_reply=False,
        )
        for sample in limit_families(request_samples(seed), split, max_benign)
        for window in _drawn_windows(sample.windows, sample, seed)
    ]
    replies = [
        Example(window, int(sample.label != BENIGN), sample.family, is_reply=True)
        for sample in limit_families(response_samples(seed), split, max_benign)
        for window in _drawn_windows(abuse_windows([sample.text]), sample, seed)
    ]
    if split == "train":
        requests, replies = balance_families(requests), balance_families(replies)
    return [*requests, *replies]


def _drawn_windows(windows: Sequence[str], sample: Sample, seed: int) -> list[str]:
    """Return the first window, and of harmless texts up to three others, drawn by the seed.

    All windows of a served text are judged. Of a harmful one the others may be harmless.
    """
    if sample.label != BENIGN or len(windows) <= 1:
        return list(windows[:1])
    others = min(len(windows), _MAX_WINDOWS) - 1
    return [windows[0], *_rng(sample.text, seed).sample(windows[1:], others)]


def balance_families(examples: Sequence[Example]) -> list[Example]:
    """Return examples in which the families of a class weigh the same, as far as they can.

    Every family gets the mean number of the families of its class, but no fewer than 60: a larger
    one is drawn from, the examples of a smaller one are repeated, up to three times each. Comments
    that people wrote are kept whole: each has another author.

    Args:
        examples: Examples of one side.
    """
    classes: dict[int, dict[str, list[Example]]] = defaultdict(lambda: defaultdict(list))
    for one in examples:
        classes[one.label][family_group(one.family)].append(one)
    balanced: list[Example] = []
    for families in classes.values():
        balanced += families.pop(COMMENTS, [])
        mean = math.ceil(sum(map(len, families.values())) / max(1, len(families)))
        quota = max(mean, _MIN_QUOTA)
        for members in families.values():
            drawn = sorted(members, key=lambda one: hashlib.sha256(one.text.encode()).digest())
            repeats = min(_MAX_REPEATS, math.ceil(quota / len(members)))
            balanced += (drawn * repeats)[:quota]
    return balanced


def _rng(text: str, seed: int) -> random.Random:
    """Return a generator that depends on the text, not on what is around it in the corpus."""
    return random.Random(f"{seed}:{text}")  # noqa: S311 - not a secret


def surround(text: str, rng: random.Random) -> str:
    """Return the text, in three of ten cases with words before or behind it or in another case."""
    if rng.random() >= _SURROUNDED_SHARE:
        return text
    form = rng.randrange(4)
    if form == 0:
        return rng.choice(_BEFORE) + text
    if form == 1:
        return text + rng.choice(_AFTER)
    if form == 2:
        return text.lower().rstrip("?.!")
    return rng.choice(_BEFORE) + text + rng.choice(_AFTER)

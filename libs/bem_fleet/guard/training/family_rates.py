"""False-positive rates over families: the budget of the whole guard, and thresholds that keep it.

A rate over texts is the rate of the largest families. A stranger's texts are of yet another family,
so families weigh the same here, and the rate is held for other families than those at hand: at the
upper end of a bootstrap over families. A family of few texts weighs less: one text of six is no
rate of 17 %.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Budget: of a stranger's harmless exchanges 1.5 % at most may be declined or withheld. Scorers of
# requests and of replies, words and embeddings, and the value head of the safety adapter each add
# their own false positives, so their shares add up to that at most:
#   requests 0.6 % (all categories but misinformation, which have one threshold),
#   misinformation 0.05 % (it sees a false claim in many a question of law), value head 0.05 %
#   (it finds little), toxicity words 0.05 %, abuse 0.7 %, counterfactual 0.05 %.
# Helpfulness and grounding are recorded and withhold nothing; personal data and secrets are cut out
# by patterns that have no threshold to choose. Texts in other languages are judged by one model
# instead of two, within the same rates.
MAX_FALSE_POSITIVE_RATES = {
    "requests": 0.006,
    "misinformation": 0.0005,
    "value head": 0.0005,
    "responses": 0.0005,
    "abuse": 0.007,
    "counterfactual": 0.0005,
    "helpfulness": 0.005,
    "grounding": 0.02,
}
"""Largest share of harmless development texts at or above the threshold of each scorer."""
WITHHOLDING = (
    "requests",
    "misinformation",
    "value head",
    "responses",
    "abuse",
    "counterfactual",
)
"""Keys of the rates that add up in one exchange."""
TOTAL_RATE = 0.015
"""Largest share of harmless exchanges that the whole guard may decline or withhold."""
MAX_THRESHOLD = 0.9999
# Seven of ten draws of families keep the rate: a threshold is a choice, and what it costs is
# measured on held-out families. Some 15 to 50 families are at hand, so at 80 % a single false
# positive in one of them decides alone: the threshold would be the highest score of all texts.
_CONFIDENCE = 0.7
_RESAMPLES = 1000
_SEED = 0
# Number of texts from which on a family has its full weight.
_FULL_WEIGHT = 20
# A share of resampled families that equals the rate keeps it, whatever the order of additions.
_TOLERANCE = 1e-9

Array = NDArray[np.float32]


def threshold_by_family(
    scores: Array,
    families: Sequence[str],
    rate: float,
    *,
    minimum: float = 0.5,
    maximum: float = MAX_THRESHOLD,
) -> float:
    """Return the lowest threshold that keeps a rate of false positives over families.

    The rate is the mean over families of the share of their texts at or above the threshold, at the
    70 % quantile of 1,000 resamples of the families (percentile bootstrap, Efron 1979). A family of
    fewer than 20 texts weighs as many twentieths. With one family the threshold is the quantile of
    its scores.

    Args:
        scores: Scores of harmless texts [texts].
        families: Family of each text.
        rate: Allowed rate, 0 to 1.
        minimum: Lowest threshold returned.
        maximum: Highest threshold returned, even if the rate is not kept there.

    Raises:
        ValueError: There is no text, or the numbers of scores and families differ.
    """
    if not len(scores) or len(scores) != len(families):
        raise ValueError(
            f"families: has {len(families)} names for {len(scores)} scores; give one for each of "
            "at least one text"
        )
    _, numbers = np.unique(np.array(families), return_inverse=True)
    sizes = np.bincount(numbers)
    weights = np.minimum(sizes, _FULL_WEIGHT)
    draws = _resample(len(sizes)) * weights
    draws /= draws.sum(axis=1, keepdims=True)
    levels = np.unique(np.asarray(scores, dtype=np.float32))

    def keeps_rate(above: np.float32) -> bool:
        shares = np.bincount(numbers[scores > above], minlength=len(sizes)) / sizes
        return float(np.quantile(draws @ shares, _CONFIDENCE)) <= rate + _TOLERANCE

    # The shares fall from level to level, and at the highest they are 0.
    first, last = 0, len(levels) - 1
    while first < last:
        middle = (first + last) // 2
        first, last = (first, middle) if keeps_rate(levels[middle]) else (middle + 1, last)
    threshold = float(np.nextafter(levels[first], np.float32(np.inf)))
    return min(max(threshold, minimum), maximum)


def _resample(count: int) -> NDArray[np.float64]:
    """Return the weight of each family in each resample [1000, count]; each row sums to 1."""
    rng = np.random.default_rng(_SEED)
    return rng.multinomial(count, np.full(count, 1 / count), size=_RESAMPLES) / count

"""Version watch: what takes a promoted version back without a person.

Two signs count while a version is new. The likelihood of the answers of the condition that it
changed may fall (ADWIN and Page-Hinkley). And feedback that arrived after it may be explained
better by its parent: the same sequential test that promoted the version then speaks against it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bem.online.codebook import Condition
from bem.online.drift import DriftMonitor, DriftSettings
from bem.online.feedback import FeedbackExample
from bem.online.objective import CodeLikelihood
from bem_fleet.services.online.code_learning import example_losses, mostly_better
from bem_fleet.services.online.metrics import DRIFT, LIKELIHOOD
from torch import Tensor

SCALE = 0.3
"""Typical deviation of an answer's mean log-probability a token, nats."""
FALL = 0.1
"""Smallest fall of the mean that counts, nats a token."""
_ALPHA = 0.05


@dataclass
class _Stream:
    monitor: DriftMonitor
    count: int = 0
    total: float = 0.0

    @property
    def mean(self) -> float:
        return self.total / max(1, self.count)


class LikelihoodWatch:
    """Watches the likelihood of answers by their condition.

    Args:
        watch_answers: Answers of a promoted version during which a fall takes it back.
    """

    def __init__(self, watch_answers: int) -> None:
        self._limit = watch_answers
        self._streams: dict[str, _Stream] = {}
        self._changed, self._before, self._left = "", 0.0, 0
        self._alarm = ""

    def promoted(self, condition: str) -> None:
        """Watch a condition, the code of which was changed just now; empty watches none."""
        stream = self._streams.get(condition)
        self._changed, self._alarm = condition, ""
        self._left = self._limit if stream and stream.count else 0
        self._before = stream.mean if stream else 0.0

    def observe(self, condition: Condition, likelihood: float) -> None:
        """Observe the mean log-probability a token of an answer, in nats."""
        LIKELIHOOD.set(likelihood)
        settings = DriftSettings(scale=SCALE)
        stream = self._streams.setdefault(condition.name, _Stream(DriftMonitor(settings)))
        signal = stream.monitor.observe(likelihood)
        stream.count, stream.total = stream.count + 1, stream.total + likelihood
        for detector, alarms in (("adwin", signal.adwin), ("page_hinkley", signal.page_hinkley)):
            if alarms:
                DRIFT.labels(detector).inc()
        if condition.name != self._changed or self._left <= 0:
            return
        self._left -= 1
        if signal.drifted and signal.mean < self._before - FALL:
            self._alarm = (
                f"drift: the likelihood of answers of {condition.name} fell from "
                f"{self._before:.3g} to {signal.mean:.3g} nats a token"
            )

    def alarm(self) -> str:
        """Return why the version should be taken back, once; empty if it should not."""
        found, self._alarm = self._alarm, ""
        return found


def regret(
    model: CodeLikelihood, live: Tensor, parent: Tensor, later: Sequence[FeedbackExample]
) -> str:
    """Return why feedback that arrived after a version speaks against it; empty if it does not.

    Args:
        model: Model whose likelihoods depend on a code.
        live: ``[P]`` code of the live version.
        parent: ``[P]`` code of its parent; zeros where the base model answered.
        later: Feedback of the condition that the version was not learned from.
    """
    if not later:
        return ""
    gains = example_losses(model, live, later) - example_losses(model, parent, later)
    if not mostly_better(gains.tolist(), _ALPHA):
        return ""
    worse = int((gains > 0).sum())
    return f"feedback: its parent explains {worse} of {len(later)} later events better"

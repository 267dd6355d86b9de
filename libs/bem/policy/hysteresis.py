"""Hysteresis: a session keeps its plan until another one is clearly and repeatedly better."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from bem.errors import InvalidSettingError


@dataclass(frozen=True)
class PlanDecision:
    """Plan of one request.

    Attributes:
        plan: Index of the plan.
        held: Whether the session's plan was kept although the policy prefers another one.
        reason: Why; a sentence without a full stop.
    """

    plan: int
    held: bool
    reason: str


@dataclass
class _Session:
    plan: int
    wanted: int
    agreements: int = 0


class PlanHysteresis:
    """Chooses between the policy's plan and the plan that a session used last.

    A session switches when the expected gain is above the threshold and this many requests in a row
    prefer the same other plan.

    Args:
        threshold: Expected gain of reward that a switch needs, at least 0.
        agreeing: Requests in a row that must agree, at least 1.
        max_sessions: Sessions that are remembered; the least recently used one is forgotten.

    Raises:
        InvalidSettingError: A number is out of its range.
    """

    def __init__(
        self, threshold: float = 0.03, agreeing: int = 2, max_sessions: int = 4096
    ) -> None:
        if threshold < 0 or agreeing < 1 or max_sessions < 1:
            raise InvalidSettingError(
                f"hysteresis: threshold {threshold} is at least 0, agreeing {agreeing} and "
                f"max_sessions {max_sessions} at least 1"
            )
        self.threshold = threshold
        self.agreeing = agreeing
        self._max_sessions = max_sessions
        self._sessions: OrderedDict[str, _Session] = OrderedDict()

    def choose(self, session: str, preferred: int, values: Sequence[float]) -> PlanDecision:
        """Return the plan of a request and remember it for its session.

        Args:
            session: Name of the session; empty for a request without one, which is never held.
            preferred: Index of the plan that the policy prefers.
            values: Expected reward of each plan.
        """
        if not session:
            return PlanDecision(preferred, held=False, reason="the request has no session")
        known = self._sessions.get(session)
        if known is None:
            self._sessions[session] = _Session(preferred, preferred)
            while len(self._sessions) > self._max_sessions:
                self._sessions.popitem(last=False)
            return PlanDecision(preferred, held=False, reason="first request of the session")
        self._sessions.move_to_end(session)
        return self._decide(known, preferred, values)

    def clear(self) -> None:
        """Forget all sessions; plans of another policy have other indices."""
        self._sessions.clear()

    def _decide(self, known: _Session, preferred: int, values: Sequence[float]) -> PlanDecision:
        if preferred == known.plan:
            known.wanted, known.agreements = preferred, 0
            return PlanDecision(preferred, held=False, reason="same plan as before")
        known.agreements = known.agreements + 1 if preferred == known.wanted else 1
        known.wanted = preferred
        gain = values[preferred] - values[known.plan]
        if gain <= self.threshold:
            reason = f"expected gain {gain:.3f} is not above {self.threshold:g}"
            return PlanDecision(known.plan, held=True, reason=reason)
        if known.agreements < self.agreeing:
            reason = f"{known.agreements} of {self.agreeing} requests in a row prefer another plan"
            return PlanDecision(known.plan, held=True, reason=reason)
        known.plan, known.agreements = preferred, 0
        return PlanDecision(preferred, held=False, reason=f"expected gain {gain:.3f}")


def flip_rate(plans: Sequence[int]) -> float:
    """Return the share of requests of one session whose plan differs from the one before."""
    if len(plans) < 2:
        return 0.0
    flips = sum(one != other for one, other in pairwise(plans))
    return flips / (len(plans) - 1)

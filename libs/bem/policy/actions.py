"""Macro-actions and plans: which adapter runs, on which input, where, and at which rank.

An adapter has a typed contract. ``retrieve`` reads passages and returns values, ``reason`` turns
values into one value, ``formalize`` puts a value into the reply's format, and ``general`` writes a
reply from what it sees. A plan is a sequence of at most ``HORIZON`` actions whose contracts fit
and whose last one writes the reply.

Example: ``retrieve/passages/suffix/0 > reason/values/prompt/0 > formalize/values/prompt/0``.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from bem.errors import InvalidRequestError

Stage = Literal["start", "values", "value", "reply"]
STAGES: tuple[Stage, ...] = ("start", "values", "value", "reply")
"""What a plan has produced so far, from nothing to the reply."""

HORIZON = 3
"""Most steps of a plan: retrieve, reason, formalize."""
SCOPES = ("passages", "values", "both")
"""Input of a step: the passages, the values of the steps before it, or both."""
SPANS = ("suffix", "prompt")
"""Tokens that run with the adapter: those behind the shared prefix, or all of the prompt."""
MAX_RANK_BUDGET = 4096


@dataclass(frozen=True)
class Contract:
    """Typed contract of an adapter's task.

    Attributes:
        reads: Stages in which the task may run.
        returns: Stage after the task.
    """

    reads: tuple[Stage, ...]
    returns: Stage


CONTRACTS: Mapping[str, Contract] = MappingProxyType({
    "retrieve": Contract(("start",), "values"),
    "reason": Contract(("values",), "value"),
    "formalize": Contract(("values", "value"), "reply"),
    "general": Contract(("start", "values", "value"), "reply"),
})  # fmt: skip
"""Contract of each task, by its name, which is also the default name of its adapter."""

_ACTION = re.compile(r"([a-z]+)/([a-z]+)/([a-z]+)/([0-9]{1,4})")


@dataclass(frozen=True, order=True)
class MacroAction:
    """One step of a plan.

    Attributes:
        adapter: Task of the step, a key of ``CONTRACTS``.
        scope: Input that the step sees, one of ``SCOPES``.
        span: Tokens that run with the adapter, one of ``SPANS``. ``suffix`` leaves the passages'
            keys and values to the base model, so that all steps share them.
        rank_budget: Number of leading ranks of the adapter that are used; 0 uses all.

    Raises:
        InvalidRequestError: A field is unknown or out of its range.
    """

    adapter: str
    scope: str = "passages"
    span: str = "suffix"
    rank_budget: int = 0

    def __post_init__(self) -> None:
        _check_choice("adapter", self.adapter, tuple(CONTRACTS))
        _check_choice("scope", self.scope, SCOPES)
        _check_choice("span", self.span, SPANS)
        if not 0 <= self.rank_budget <= MAX_RANK_BUDGET:
            raise InvalidRequestError(
                "rank_budget",
                f"{self.rank_budget} is out of range; 0 to {MAX_RANK_BUDGET} is allowed",
            )

    def __str__(self) -> str:
        return f"{self.adapter}/{self.scope}/{self.span}/{self.rank_budget}"

    @property
    def contract(self) -> Contract:
        """Contract of the step's task."""
        return CONTRACTS[self.adapter]

    def fits(self, stage: Stage, steps_left: int) -> bool:
        """Return whether the action may run in a stage with this many steps left, itself included.

        The first step has no values to read, and the last one has to write the reply.
        """
        if stage not in self.contract.reads or (stage == "start") != (self.scope == "passages"):
            return False
        return steps_left > 1 or self.contract.returns == "reply"


Plan = tuple[MacroAction, ...]


def parse_action(text: str) -> MacroAction:
    """Return the action that ``str`` writes.

    Raises:
        InvalidRequestError: The text is no action.
    """
    match = _ACTION.fullmatch(text)
    if not match:
        raise InvalidRequestError(
            "action", f"{text[:60]!r} is no action; write adapter/scope/span/rank_budget"
        )
    adapter, scope, span, budget = match.groups()
    return MacroAction(adapter, scope, span, int(budget))


def plan_text(plan: Sequence[MacroAction]) -> str:
    """Return a plan as one line, its actions separated by `` > ``."""
    return " > ".join(str(action) for action in plan)


def check_plan(plan: Sequence[MacroAction], horizon: int = HORIZON) -> None:
    """Check that the contracts of a plan fit.

    Raises:
        InvalidRequestError: The plan is empty, too long, a step does not fit, or no step writes
            the reply.
    """
    if not 1 <= len(plan) <= horizon:
        raise InvalidRequestError("plan", f"{len(plan)} steps; 1 to {horizon} are allowed")
    stage: Stage = "start"
    for place, action in enumerate(plan):
        if not action.fits(stage, len(plan) - place):
            raise InvalidRequestError(
                f"plan[{place}]",
                f"{action} does not fit after {stage!r} with {len(plan) - place} steps left; "
                "begin with scope passages, read values afterwards, end with formalize or general",
            )
        stage = action.contract.returns
        if stage == "reply" and place < len(plan) - 1:
            raise InvalidRequestError(
                f"plan[{place}]", f"{action} writes the reply; it must be the last step"
            )


def enumerate_plans(actions: Sequence[MacroAction], horizon: int = HORIZON) -> Iterator[Plan]:
    """Yield every plan of at most ``horizon`` steps in a fixed order."""
    yield from _extend((), "start", actions, horizon)


def _extend(
    begun: Plan, stage: Stage, actions: Sequence[MacroAction], steps_left: int
) -> Iterator[Plan]:
    for action in actions:
        if not action.fits(stage, steps_left):
            continue
        plan = (*begun, action)
        if action.contract.returns == "reply":
            yield plan
        else:
            yield from _extend(plan, action.contract.returns, actions, steps_left - 1)


def _check_choice(field: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InvalidRequestError(
            field, f"{value[:40]!r} is unknown; use one of {', '.join(allowed)}"
        )


DEFAULT_ACTIONS: Plan = (
    MacroAction("retrieve", "passages", "suffix"),
    MacroAction("retrieve", "passages", "suffix", 2),
    MacroAction("reason", "values", "prompt"),
    MacroAction("reason", "both", "suffix"),
    MacroAction("formalize", "values", "prompt"),
    MacroAction("general", "passages", "suffix"),
    MacroAction("general", "values", "prompt"),
)
"""Actions that a policy chooses from unless its card lists others."""

FIXED_PLAN: Plan = (DEFAULT_ACTIONS[0], DEFAULT_ACTIONS[2], DEFAULT_ACTIONS[4])
"""Plan that runs when no policy is available."""

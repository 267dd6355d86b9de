"""Messages of plans: protobuf to the library's types and back."""

from collections.abc import Iterable

from bem.engine.plan_run import PlanRun
from bem.errors import InvalidRequestError
from bem.policy.actions import HORIZON, MacroAction, Plan, plan_text
from bem.policy.artifact import PolicyCard
from bem.policy.step_prompts import Message
from bem_fleet.services.router.planning import PLANNER_NAME, PlannedRequest
from bemfleet.router.v1 import router_pb2 as pb

MAX_SESSION_CHARACTERS = 256
_SOURCES = {
    "policy": pb.PLAN_SOURCE_POLICY,
    "fixed": pb.PLAN_SOURCE_FIXED,
    "client": pb.PLAN_SOURCE_CLIENT,
}


def is_planned(request: pb.GenerateRequest) -> bool:
    """Return whether a request asks for a plan.

    Raises:
        InvalidRequestError: It gives a plan and names another model, or asks for a plan with
            tools or with the echo of its prompt.
    """
    if request.model == PLANNER_NAME:
        if request.chat.tools:
            raise InvalidRequestError(
                "chat.tools", f"are not served by the model {PLANNER_NAME!r}; name another one"
            )
        if request.echo:
            raise InvalidRequestError(
                "echo", f"is not served by the model {PLANNER_NAME!r}; name another one"
            )
        return True
    if request.plan:
        raise InvalidRequestError(
            "plan", f"is only for the model {PLANNER_NAME!r}; name it, or leave the plan out"
        )
    return False


def wanted_plan(request: pb.GenerateRequest) -> Plan:
    """Return the plan that a request gives; empty for none.

    Raises:
        InvalidRequestError: A step is unknown, or there are too many.
    """
    if len(request.plan) > HORIZON:
        raise InvalidRequestError(
            "plan", f"{len(request.plan)} steps; 1 to {HORIZON} steps are allowed"
        )
    return tuple(
        MacroAction(step.adapter, step.scope or "passages", step.span or "suffix", step.rank_budget)
        for step in request.plan
    )


def wanted_session(request: pb.GenerateRequest) -> str:
    """Return the session of a request; may be empty.

    Raises:
        InvalidRequestError: It is too long.
    """
    if len(request.session) > MAX_SESSION_CHARACTERS:
        raise InvalidRequestError(
            "session",
            f"{len(request.session)} characters; at most {MAX_SESSION_CHARACTERS} are allowed",
        )
    return request.session


def conversation(request: pb.GenerateRequest) -> list[Message]:
    """Return the messages of a request; a raw prompt is one message of the user."""
    if request.WhichOneof("input") != "chat":
        return [{"role": "user", "content": request.prompt}]
    return [{"role": one.role, "content": one.content} for one in request.chat.messages]


def report_message(planned: PlannedRequest, *, alternatives: bool = False) -> pb.PlanReport:
    """Return plan and explanation of a request.

    Args:
        planned: Planned request.
        alternatives: Whether to list the other plans.
    """
    report = pb.PlanReport(
        steps=step_messages(planned.plan),
        source=_SOURCES[planned.source],
        policy_version=planned.policy_version,
        reason=planned.reason,
        cached_tokens=planned.cached_tokens,
        missing=planned.missing,
    )
    if (choice := planned.choice) is None:
        return report
    report.probability = choice.probability
    report.step_probabilities.extend(choice.step_probabilities)
    report.expected_reward = choice.expected_reward
    report.expected_gain = choice.expected_gain
    report.held = choice.held
    if alternatives:
        report.alternatives.extend(
            pb.PlanAlternative(
                steps=step_messages(other.plan),
                probability=other.probability,
                expected_reward=other.expected_reward,
                reason=other.reason,
            )
            for other in choice.alternatives
        )
    return report


def usage_message(run: PlanRun) -> pb.PlanUsage:
    """Return what the finished steps of a plan cost."""
    return pb.PlanUsage(
        steps=step_messages(one.action for one in run.results),
        prompt_tokens=[one.prompt_tokens for one in run.results],
        cached_tokens=[one.output.cached_tokens for one in run.results],
        completion_tokens=[one.output.completion_tokens for one in run.results],
        replanned=run.replanned,
    )


def version_message(card: PolicyCard | None, *, current: bool) -> pb.PolicyVersion:
    """Return a stored version; one with number 0 for none."""
    if card is None:
        return pb.PolicyVersion()
    return pb.PolicyVersion(
        version=card.version, sha256=card.sha256, parent=card.parent, current=current, kl=card.kl
    )


def step_messages(actions: Iterable[MacroAction]) -> list[pb.MacroAction]:
    """Return the steps of a plan."""
    return [
        pb.MacroAction(
            adapter=one.adapter, scope=one.scope, span=one.span, rank_budget=one.rank_budget
        )
        for one in actions
    ]


def plan_header(planned: PlannedRequest) -> str:
    """Return a plan as one line for a metadata key: its steps and who chose it."""
    return f"{plan_text(planned.plan)}; source={planned.source}"

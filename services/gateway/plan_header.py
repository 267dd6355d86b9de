"""Header of an answer that names the plan which the router ran."""

from collections.abc import Iterable

from bem_fleet.services.gateway.generation import ChoiceDelta
from bemfleet.router.v1 import router_pb2 as pb
from fleet import wire

_SOURCES = {
    pb.PLAN_SOURCE_POLICY: "policy",
    pb.PLAN_SOURCE_FIXED: "fixed",
    pb.PLAN_SOURCE_CLIENT: "client",
}


def plan_headers(choices: Iterable[ChoiceDelta]) -> dict[str, str]:
    """Return the header with the plan of the first choice that has one; empty without a plan.

    Example: ``retrieve/passages/suffix/0 > general/values/prompt/0; source=policy; p=0.914``.
    """
    report = next((one.output.plan for one in choices if one.output.HasField("plan")), None)
    if report is None:
        return {}
    steps = " > ".join(
        f"{step.adapter}/{step.scope}/{step.span}/{step.rank_budget}" for step in report.steps
    )
    source = _SOURCES.get(report.source, "unknown")
    text = f"{steps}; source={source}"
    if report.source == pb.PLAN_SOURCE_POLICY:
        text += f"; p={report.probability:.3f}"
    if report.held:
        text += "; held"
    return {wire.PLAN: text}

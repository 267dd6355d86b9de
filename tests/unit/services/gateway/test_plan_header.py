"""Tests of the header that names a plan."""

from bem_fleet.services.gateway.generation import ChoiceDelta
from bem_fleet.services.gateway.plan_header import plan_headers
from bemfleet.router.v1 import router_pb2 as pb
from fleet import wire

STEP = pb.MacroAction(adapter="general", scope="passages", span="suffix", rank_budget=2)


def headers(**fields: object) -> dict[str, str]:
    """Return the headers of an answer with a plan."""
    report = pb.PlanReport(steps=[STEP, STEP], **fields)  # type: ignore[arg-type]
    return plan_headers([ChoiceDelta(0, pb.CompleteResponse(plan=report))])


def test_steps_source_and_probability_are_in_one_line() -> None:
    """The policy's plan has its probability, and whether hysteresis kept it."""
    found = headers(source=pb.PLAN_SOURCE_POLICY, probability=0.9137, held=True)

    steps = "general/passages/suffix/2 > general/passages/suffix/2"
    assert found == {wire.PLAN: f"{steps}; source=policy; p=0.914; held"}


def test_other_plans_have_their_source_alone() -> None:
    """A fixed plan has no probability."""
    assert headers(source=pb.PLAN_SOURCE_FIXED)[wire.PLAN].endswith("; source=fixed")


def test_an_answer_without_a_plan_has_no_header() -> None:
    """Named adapters and the base model are served as ever."""
    assert plan_headers([ChoiceDelta(0, pb.GenerateResponse(text="x"))]) == {}

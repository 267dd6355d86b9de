"""SafetyService: validation and verdicts of Check and Score."""

from pathlib import Path
from typing import Any

import pytest
from bem_fleet.guard.policy import DEFAULT_POLICY
from bem_fleet.services.safety.evaluator import PolicyEvaluator
from bem_fleet.services.safety.policy_file import PolicyFile
from bem_fleet.services.safety.safety_strength import SafetyStrengthStore
from bem_fleet.services.safety.servicer import SafetyServicer
from bem_fleet.services.safety.settings import SafetySettings
from bemfleet.safety.v1 import safety_pb2 as pb
from fleet.errors import InvalidArgumentError

from tests.unit.services.safety.test_evaluator import RecordingScorer

CONTEXT: Any = None


def servicer(score: float) -> SafetyServicer:
    """Return a servicer whose scorers give a constant."""
    settings = SafetySettings(max_text_chars=20)
    policy = PolicyFile(Path(DEFAULT_POLICY))
    evaluator = PolicyEvaluator(
        RecordingScorer(score), RecordingScorer(score), lambda: policy.current
    )
    audit: Any = None
    return SafetyServicer(settings, evaluator, policy, SafetyStrengthStore(settings), audit)


async def test_check_returns_verdict_and_text() -> None:
    """An allowed text is returned, a withheld one is not; each rule of the side has a score."""
    allowed = await servicer(0.0).Check(pb.CheckRequest(text="hello"), CONTEXT)
    withheld = await servicer(1.0).Check(pb.CheckRequest(text="hello"), CONTEXT)

    assert (allowed.action, allowed.text) == (pb.ACTION_ALLOW, "hello")
    assert (withheld.action, withheld.text) == (pb.ACTION_FILTER, "")
    assert {"toxicity", "counterfactual"} <= {score.category for score in allowed.scores}


async def test_score_runs_all_scorers_of_the_side() -> None:
    """Scorers that the policy does not use are run too."""
    response = await servicer(0.5).Score(
        pb.ScoreRequest(text="hello", side=pb.SIDE_REQUEST), CONTEXT
    )

    assert set(response.scores) == {
        *("harm", "misinformation", "privacy", "bias", "injection", "jailbreak", "language")
    }


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.CheckRequest(), "text"),
        (pb.CheckRequest(text="x" * 21), "text"),
        (pb.CheckRequest(text="x", prompt="y" * 21), "prompt"),
    ],
)
async def test_texts_outside_the_limits_are_rejected(request_: pb.CheckRequest, field: str) -> None:
    """The error names the field."""
    with pytest.raises(InvalidArgumentError) as caught:
        await servicer(0.0).Check(request_, CONTEXT)

    assert caught.value.field == field

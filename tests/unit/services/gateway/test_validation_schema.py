"""Request schemas of the validation routes."""

from typing import Any

import pytest
from bem_fleet.services.gateway.validation_schema import CompareBody, GateBody
from pydantic import ValidationError

LINEAGE = {"mission_digest": "m", "baseline_digest": "b", "data_digest": "d", "command": "c"}


def compare(**changed: Any) -> dict[str, Any]:
    """Return the body of a comparison with some fields changed."""
    body = {"claim": "c", "metric": "f1", "mission": [1.0], "baseline": [1.0], "lineage": LINEAGE}
    return {**body, **changed}


def test_comparison_is_one_metric() -> None:
    """The scores of a comparison have the form of a gate's."""
    body = CompareBody.model_validate(compare())

    assert list(body.scores) == ["f1"]
    assert body.scores["f1"].total == 2


@pytest.mark.parametrize(
    ("model", "body", "text"),
    [
        (CompareBody, compare(mission=[1.0] * 200_001), "200000"),
        (CompareBody, compare(mission=[[1.0], [1.0, 2.0]]), "same items"),
        (
            GateBody,
            {"claim": "c", "scores": {"f1": {"mission": [1]}}, "lineage": LINEAGE},
            "gate_id or spec",
        ),
    ],
)
def test_body_beyond_its_limits_is_refused(model: Any, body: dict[str, Any], text: str) -> None:
    """The error says what the limit is."""
    with pytest.raises(ValidationError, match=text):
        model.model_validate(body)

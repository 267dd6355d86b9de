"""Errors of blocked requests and withheld responses."""

import pytest
from bem_fleet.guard.findings import Finding
from bem_fleet.guard.policy import DEFAULT_POLICY, load_policy
from bem_fleet.services.safety.audit import AuditRecord
from bem_fleet.services.safety.verdicts import denial, enforce, reported_fields
from bemfleet.router.v1 import router_pb2 as pb
from fleet.errors import DeniedError

POLICY = load_policy(DEFAULT_POLICY)


def test_error_says_why_and_what_the_call_cost() -> None:
    """Reason, rule and score are in the metadata, with the fields that are always reported."""
    record = AuditRecord("m")
    verdict = POLICY.evaluate("request", Finding({"harm": 1.0}))
    with pytest.raises(DeniedError) as caught:
        enforce(verdict, record, "request", {"prompt_tokens": "7"})
    (rule,) = (one for one in POLICY.rules if one.scorer == "harm")

    assert record.worst_verdict is verdict
    assert caught.value.metadata == {
        "side": "request",
        "reason": "the request was blocked: it violates harmlessness (harm)",
        "category": "harm",
        "constraint": "harmlessness",
        "score": "1.000",
        "threshold": f"{rule.threshold:.3f}",
        "severity": "1.000",
        "policy": POLICY.version,
        "prompt_tokens": "7",
    }


def test_a_text_in_an_unjudged_language_is_named_as_that() -> None:
    """What cannot be judged is no violation that was found."""
    error = denial(POLICY.evaluate("response", Finding({"language": 0.9})), "response", {})

    assert error.metadata["category"] == "language"
    assert error.metadata["reason"] == (
        "the response was withheld: it is mainly in a language that the guard cannot judge "
        "(language)"
    )


def test_allowed_verdict_raises_nothing_and_a_denial_needs_no_verdict() -> None:
    """A span that cannot be redacted is denied with its own reason."""
    enforce(POLICY.evaluate("response", Finding({"pii": 0.9})), AuditRecord("m"), "response")

    assert denial(None, "response", {}, "because").metadata == {
        "side": "response",
        "reason": "because",
    }


def test_counts_and_version_are_reported_and_texts_are_not() -> None:
    """Only fields with the option ``reported_if_withheld``, at any depth."""
    message = pb.CompleteResponse(text="t", model_version="v", usage=pb.Usage(prompt_tokens=3))

    assert reported_fields(message) == {"model_version": "v", "prompt_tokens": "3"}

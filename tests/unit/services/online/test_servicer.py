"""Servicer of the online mission without its model."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from bem_fleet.feedback.intake import Receipt
from bem_fleet.feedback.record import Feedback
from bem_fleet.services.online.answering import Answer, AnsweringHolder
from bem_fleet.services.online.servicer import OnlineServicer
from bemfleet.online.v1 import online_pb2 as pb
from fleet.access.principal import SOCKET_PEER, Principal, principal
from fleet.errors import FailedPreconditionError, InvalidArgumentError, UnavailableError
from fleet.wire import TENANT

CONTEXT: Any = SimpleNamespace(time_remaining=lambda: None)


class Answering:
    """Answers every prompt with itself."""

    async def answer(self, prompt: str, **options: Any) -> Answer:
        """Return the prompt and the options."""
        return Answer(prompt, options["max_tokens"], options["model"], "answer-1", 3, "c")


def servicer() -> OnlineServicer:
    """Return a servicer with a model and without a bank."""
    holder: Any = SimpleNamespace(get=Answering)
    made = OnlineServicer(holder, SimpleNamespace(user=lambda owner, user: f"{owner.name}/{user}"))  # type: ignore[arg-type]
    made.problem = "nothing is learned"
    return made


async def test_request_and_response_are_translated() -> None:
    """Prompt, model and limit reach the host, and its result comes back."""
    request = pb.GenerateRequest(model="alpha", prompt="hello", max_tokens=5)
    response = await servicer().Generate(request, CONTEXT)

    assert (response.text, response.model_version, response.completion_tokens) == (
        *("hello", "alpha"),
        5,
    )
    assert (response.version, response.condition, response.answer_id) == (3, "c", "answer-1")


async def test_without_a_bank_the_status_says_so() -> None:
    """Requests are answered; calls about versions are refused with the reason."""
    made = servicer()
    status = await made.Status(pb.StatusRequest(), CONTEXT)
    for call in (
        made.Versions(pb.VersionsRequest(), CONTEXT),
        made.Restore(pb.RestoreRequest(version=1), CONTEXT),
        made.Hold(pb.HoldRequest(held=True), CONTEXT),
    ):
        with pytest.raises(FailedPreconditionError, match="bank: nothing is learned"):
            await call

    assert status.not_learning == "nothing is learned"


async def test_tenant_of_feedback_is_what_the_sidecar_states() -> None:
    """On the unix socket it makes the pseudonym that the gateway would make."""
    sent = []

    async def submit(written: Feedback, caller: Principal, once: str) -> Receipt:
        sent.append((written.correction, caller.name, caller.tenant, once))
        return Receipt("1-0", repeated=False)

    made = OnlineServicer(AnsweringHolder(), SimpleNamespace(submit=submit))  # type: ignore[arg-type]
    context: Any = SimpleNamespace(invocation_metadata=lambda: ((TENANT, "acme"),))
    token = principal.set(replace(SOCKET_PEER, name="web"))
    request = pb.FeedbackRequest(answer_id="a", correction="b", idempotency_key="k")
    response = await made.Feedback(request, context)
    principal.reset(token)

    assert response.id == "1-0"
    assert sent == [("b", "web", "acme", "k")]


async def test_limits_are_named_and_a_loading_model_is_unavailable() -> None:
    """The error names the field; without a model the caller is told to retry."""
    made = servicer()
    reason, pseudonym = "a" * 201, "0" * 32 + "-" + "1" * 32
    early: tuple[tuple[Any, str], ...] = (
        (made.Generate(pb.GenerateRequest(prompt="a", max_tokens=0), CONTEXT), "max_tokens"),
        (made.Versions(pb.VersionsRequest(limit=0), CONTEXT), "limit"),
        (made.Restore(pb.RestoreRequest(version=-1), CONTEXT), "version"),
        (made.Explain(pb.ExplainRequest(), CONTEXT), "subject"),
        (made.Explain(pb.ExplainRequest(answer_id="x"), CONTEXT), "answer_id"),
    )
    made.learner = SimpleNamespace(rollout=SimpleNamespace(promote=None, forget=None))  # type: ignore[assignment]
    late: tuple[tuple[Any, str], ...] = (
        (made.Promote(pb.PromoteRequest(version=1, reason=reason), CONTEXT), "reason"),
        (made.Forget(pb.ForgetRequest(), CONTEXT), "client"),
        (made.Forget(pb.ForgetRequest(pseudonym="x"), CONTEXT), "pseudonym"),
        (made.Forget(pb.ForgetRequest(pseudonym=pseudonym, user="a"), CONTEXT), "pseudonym"),
    )
    for call, field in (*early, *late):
        with pytest.raises(InvalidArgumentError, match=f"^{field}: "):
            await call
    loading = OnlineServicer(AnsweringHolder(), None)  # type: ignore[arg-type]
    with pytest.raises(UnavailableError):
        await loading.Generate(pb.GenerateRequest(prompt="a"), CONTEXT)

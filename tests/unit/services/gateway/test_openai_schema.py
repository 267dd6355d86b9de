"""Whatever a client sends, it gets an answer that names what is wrong, never a crash."""

import json
from typing import Any

import grpc
import pytest
from bem_fleet.services.gateway.errors import _param, from_validation
from bem_fleet.services.gateway.generation import router_requests
from bem_fleet.services.gateway.openai_schema import ChatRequest, CompletionRequest
from fleet.errors import ErrorDetails
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
FIELDS = st.sampled_from([*ChatRequest.model_fields, "colour"])


@given(changed=st.dictionaries(FIELDS, JSON, max_size=4))
def test_any_field_values_are_taken_or_named(changed: dict[str, Any]) -> None:
    """Arbitrary values either make requests for the router or an error with its field."""
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **changed}
    try:
        request = ChatRequest.model_validate(body)
    except ValidationError as err:
        found = from_validation(err.errors())
        assert found.status == 400
        assert json.dumps(found.body)
        return

    assert len(router_requests(request)) == (request.n or 1)


@pytest.mark.parametrize("model", [ChatRequest, CompletionRequest])
def test_every_error_in_a_nested_field_has_its_path(model: type[Any]) -> None:
    """The param is the path that a client can look up in its own body."""
    body = {"model": "m", "messages": [{"role": "robot", "content": "x"}], "prompt": [""]}
    with pytest.raises(ValidationError) as caught:
        model.model_validate(body)
    params = {from_validation([error]).body["param"] for error in caught.value.errors()}

    assert params & {"messages.0.role", "prompt.0"}


def test_choices_have_their_own_seeds_at_the_edge_of_the_range() -> None:
    """Seeds of further choices wrap around instead of overflowing."""
    request = CompletionRequest(model="m", prompt=["x"], seed=2**63 - 1, n=2)

    assert [sent.sampling.seed for sent in router_requests(request)] == [2**63 - 1, -(2**63)]


def test_router_fields_have_http_names() -> None:
    """A client reads the names that it sent."""
    code = grpc.StatusCode.INVALID_ARGUMENT
    names = {
        field: _param(ErrorDetails(code, "", field=field))
        for field in (
            *("chat.messages", "request.chat.messages[0].content"),
            *("sampling.top_p", "max_tokens"),
        )
    }

    assert list(names.values()) == ["messages", "messages[0].content", "top_p", "max_tokens"]


def test_sampling_of_openai_and_vllm_reaches_the_router() -> None:
    """Every field of a client has its place in the router's request."""
    request = ChatRequest.model_validate(
        {
            "model": "m",
            "messages": [{"role": "user", "content": "x"}],
            "logprobs": True,
            "top_logprobs": 3,
            "logit_bias": {"50256": -100, "7": 2.5},
            "presence_penalty": 0.5,
            "frequency_penalty": -0.5,
            "repetition_penalty": 1.25,
            "top_k": 4,
            "adapter_scale": 0.5,
        }
    )
    (sent,) = router_requests(request)

    assert dict(sent.sampling.logit_bias) == {50256: -100, 7: 2.5}
    assert (sent.sampling.logprobs, sent.sampling.top_k) == (3, 4)
    assert (sent.sampling.presence_penalty, sent.sampling.frequency_penalty) == (0.5, -0.5)
    assert (sent.sampling.repetition_penalty, sent.adapter_scale) == (1.25, 0.5)


@pytest.mark.parametrize(
    ("changed", "param", "part"),
    [
        ({"top_logprobs": 2}, None, "needs logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "20"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "integer"),
        ({"logit_bias": {"5": 101}}, "logit_bias", "100"),
        ({"logit_bias": {str(n): 1 for n in range(1025)}}, "logit_bias", "1024"),
        ({"repetition_penalty": 0}, "repetition_penalty", "greater than 0"),
    ],
)
def test_sampling_beyond_its_limit_is_named(
    changed: dict[str, Any], param: str | None, part: str
) -> None:
    """The error has the field and the limit."""
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **changed}
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate(body)
    error = from_validation(caught.value.errors()).body

    assert str(error["param"]).startswith(str(param or "body")) or error["param"] is None
    assert part in str(error["message"])

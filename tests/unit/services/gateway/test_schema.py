"""Whatever a client sends, it gets an answer that names what is wrong, never a crash."""

import json
from typing import Any

import grpc
import pytest
from fleet.errors import ErrorDetails
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from services.gateway.errors import _param, from_validation
from services.gateway.generation import wire_requests
from services.gateway.schema import ChatRequest, CompletionRequest

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

    assert len(wire_requests(request)) == (request.n or 1)


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

    assert [asked.sampling.seed for asked in wire_requests(request)] == [2**63 - 1, -(2**63)]


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

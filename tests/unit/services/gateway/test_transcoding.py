"""JSON transcoding by descriptor."""

import json
from typing import Any

import pytest
from bem_fleet.services.gateway.errors import ApiError
from bem_fleet.services.gateway.transcoding import parse_json, to_json
from bemfleet.router.v1 import router_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
FIELDS = st.sampled_from([*pb.GenerateRequest.DESCRIPTOR.fields_by_name, "colour"])


def parse(value: Any) -> Any:
    """Parse a value as a request of the router."""
    return parse_json(json.dumps(value).encode(), pb.GenerateRequest)


def test_both_spellings_and_an_empty_body_are_accepted() -> None:
    """Proto names and lowerCamelCase name the same field."""
    assert parse({"max_tokens": 3}) == parse({"maxTokens": 3}) == pb.GenerateRequest(max_tokens=3)
    assert parse_json(b"", pb.GenerateRequest) == pb.GenerateRequest()
    assert to_json(pb.Usage(prompt_tokens=2)) == {"prompt_tokens": 2, "completion_tokens": 0}


@pytest.mark.parametrize(
    ("value", "param"),
    [
        ({"colour": 1}, "colour"),
        ({"sampling": {"colour": 1}}, "sampling.colour"),
        ({"sampling": {"top_k": "x"}}, "sampling.top_k"),
        ({"chat": {"messages": [{"role": 1}]}}, "chat.messages.role"),
        ({"chat": {"messages": [{"colour": 1}]}}, "chat.messages[0].colour"),
        ({"sampling": {"logit_bias": {"1": "z"}}}, "sampling.logit_bias[1]"),
        ({"model": "\ud800"}, "model"),
        ({"prompt": "a", "chat": {}}, None),
        ([], None),
        (3, None),
    ],
)
def test_wrong_field_is_named_by_its_path(value: Any, param: str | None) -> None:
    """The param is a path that the client can look up in its own body."""
    with pytest.raises(ApiError) as caught:
        parse(value)

    assert caught.value.status == 400
    assert caught.value.body["param"] == param


@given(st.dictionaries(FIELDS, JSON, max_size=4))
def test_any_object_is_a_message_or_a_named_error(value: dict[str, Any]) -> None:
    """Arbitrary values never crash the parser."""
    try:
        parsed: Any = parse(value)
    except ApiError as err:
        parsed = err

    assert isinstance(parsed, pb.GenerateRequest) or parsed.status == 400

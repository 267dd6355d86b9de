"""Whatever a client sends, it gets an answer that names what is wrong, never a crash."""

import json
from typing import Any

import grpc
import pytest
from bem_fleet.services.gateway.errors import _param, from_validation
from bem_fleet.services.gateway.generation import router_requests
from bem_fleet.services.gateway.openai_schema import ChatRequest, CompletionRequest
from bemfleet.router.v1 import router_pb2 as pb
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
    params = {from_validation([error], body).body["param"] for error in caught.value.errors()}

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

    assert list(names.values()) == ["messages", "messages.0.content", "top_p", "max_tokens"]


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
            "min_p": 0.25,
            "min_tokens": 2,
            "ignore_eos": True,
            "stop_token_ids": [5, 6],
            "adapter_scale": 0.5,
            "adapters": [{"name": "tone", "scale": 0.25}, {"name": "domain"}],
        }
    )
    (sent,) = router_requests(request)

    assert dict(sent.sampling.logit_bias) == {50256: -100, 7: 2.5}
    assert (sent.sampling.logprobs, sent.sampling.top_k) == (3, 4)
    assert (sent.sampling.presence_penalty, sent.sampling.frequency_penalty) == (0.5, -0.5)
    assert (sent.sampling.repetition_penalty, sent.adapter_scale) == (1.25, 0.5)
    assert (sent.sampling.min_p, sent.min_tokens, sent.ignore_eos) == (0.25, 2, True)
    assert list(sent.stop_token_ids) == [5, 6]
    assert [(one.name, one.scale) for one in sent.adapters] == [("tone", 0.25), ("domain", 1.0)]
    assert not sent.HasField("max_tokens")


NEUTRAL: dict[str, list[Any]] = {
    **{name: [None] for name in ("audio", "moderation", "web_search_options", "guided_json")},
    **{name: [None, []] for name in ("tools", "functions", "documents", "bad_words")},
    **{name: [None, "none", "auto"] for name in ("tool_choice", "function_call")},
    **{name: [None, True, False] for name in ("parallel_tool_calls", "store")},
    "modalities": [None, ["text"]],
    "response_format": [None, {"type": "text"}],
    "prediction": [None, {"type": "content", "content": "x"}],
    "reasoning_effort": [None, "none", "minimal", "xhigh"],
    "verbosity": [None, "low"],
    "service_tier": [None, "auto", "flex", "priority"],
    "metadata": [None, {}, {"run": "7"}],
    "prompt_cache_key": [None, "k"],
    "prompt_cache_options": [{"mode": "implicit"}],
    "prompt_cache_retention": [None, "24h"],
    "safety_identifier": [None, "u-1"],
    "user": [None, "u-1"],
    "logprobs": [None, False],
    "top_logprobs": [None, 0],
    "stream_options": [None, {}, {"include_usage": None, "continuous_usage_stats": False}],
    "logit_bias": [None, {}],
    "stop": [None, []],
    "use_beam_search": [False],
    "length_penalty": [1, 1.0],
    "skip_special_tokens": [True],
    "chat_template_kwargs": [{}],
    "echo": [None, False],
    "add_generation_prompt": [None, True],
    "continue_final_message": [None, False],
    "top_k": [None, -1, 0],
    "min_p": [None, 0],
    "min_tokens": [None, 0],
    "ignore_eos": [None, False],
    "stop_token_ids": [None, []],
}
CASES = [(name, value) for name, values in NEUTRAL.items() for value in values]


@pytest.mark.parametrize(("name", "value"), CASES)
def test_values_that_ask_for_nothing_change_nothing(name: str, value: Any) -> None:
    """The router gets the request that it gets without the field."""
    plain: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    (with_field,) = router_requests(ChatRequest.model_validate({**plain, name: value}))
    (without,) = router_requests(ChatRequest.model_validate(plain))
    for request in (with_field, without):  # an explicit default is the default
        for field in ("top_k", "min_p"):
            request.sampling.ClearField(field)
        request.ClearField("sampling") if not request.sampling.ByteSize() else None
        request.ClearField("min_tokens") if not request.min_tokens else None
        if request.chat.add_generation_prompt:
            request.chat.ClearField("add_generation_prompt")

    assert with_field == without


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("functions", [{"name": "f"}]),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy", "format": "mp3"}),
        ("web_search_options", {}),
        ("echo", True),
        ("use_beam_search", True),
        ("length_penalty", 0.5),
        ("include_stop_str_in_output", True),
        ("skip_special_tokens", False),
        ("add_special_tokens", True),
        ("allowed_token_ids", [1]),
    ],
)
def test_fields_that_would_change_the_answer_are_refused_by_name(name: str, value: Any) -> None:
    """Ignoring them would answer another question than the caller's."""
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], name: value}
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate(body)
    error = from_validation(caught.value.errors()).body

    assert (error["param"], error["code"]) == (name, "unsupported_parameter")
    assert "leave the field out" in str(error["message"])


def test_completion_fields_that_ask_for_nothing() -> None:
    """An empty suffix, no echo, and as many candidates as choices."""
    plain = {"model": "m", "prompt": "x", "n": 2}
    neutral = {"suffix": "", "echo": False, "best_of": 2, "max_tokens": None, "logprobs": None}
    parsed = CompletionRequest.model_validate({**plain, **neutral})

    assert router_requests(parsed) == router_requests(CompletionRequest.model_validate(plain))
    for name, value in {"suffix": "end", "best_of": 3}.items():
        with pytest.raises(ValidationError) as caught:
            CompletionRequest.model_validate({**plain, name: value})
        assert from_validation(caught.value.errors()).body["param"] == name


def test_no_tokens_are_asked_for_only_with_an_echo() -> None:
    """A log-likelihood needs none; an answer needs one."""
    body = {"model": "m", "prompt": "x", "max_tokens": 0}
    (request,) = router_requests(CompletionRequest.model_validate({**body, "echo": True}))

    assert request.echo
    assert request.HasField("max_tokens")
    with pytest.raises(ValidationError, match="echo is not set"):
        CompletionRequest.model_validate(body)
    chat = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    with pytest.raises(ValidationError, match="echo"):
        ChatRequest.model_validate({**chat, "echo": True})


def test_limits_of_both_names_may_agree() -> None:
    """Some clients send the old and the new name."""
    body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    both = ChatRequest.model_validate({**body, "max_tokens": 5, "max_completion_tokens": 5})

    assert router_requests(both)[0].max_tokens == 5
    with pytest.raises(ValidationError, match="differ"):
        ChatRequest.model_validate({**body, "max_tokens": 5, "max_completion_tokens": 6})


def test_prefill_reaches_the_router() -> None:
    """The last answer is continued, unless a new turn is asked for too."""
    body: dict[str, Any] = {
        "model": "m",
        "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "On"}],
        "continue_final_message": True,
    }
    (sent,) = router_requests(ChatRequest.model_validate(body))
    closed = ChatRequest.model_validate(
        {**body, "continue_final_message": False, "add_generation_prompt": False}
    )

    assert sent.chat.continue_final_message
    assert not sent.chat.HasField("add_generation_prompt")
    assert router_requests(closed)[0].chat.HasField("add_generation_prompt")
    with pytest.raises(ValidationError, match="excludes"):
        ChatRequest.model_validate({**body, "add_generation_prompt": True})


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


FIND = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}


def test_tools_reach_the_router() -> None:
    """Definitions, the choice among them, and earlier calls with their results."""
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "found"}]},
    ]
    named = {"type": "function", "function": {"name": "find"}}
    body = {"model": "m", "messages": messages, "tools": [FIND], "tool_choice": named}
    (sent,) = router_requests(ChatRequest.model_validate({**body, "parallel_tool_calls": False}))

    (tool,) = sent.chat.tools
    assert (tool.name, tool.parameters) == ("find", '{"type": "object"}')
    assert (sent.chat.tool_name, sent.chat.parallel_tool_calls) == ("find", False)
    assert sent.chat.messages[1].tool_calls[0].id == "c1"
    assert (sent.chat.messages[2].tool_call_id, sent.chat.messages[2].content) == ("c1", "found")


def test_tools_that_are_not_to_be_called_are_not_sent() -> None:
    """As vLLM reads the choice none."""
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": [FIND]}
    (none,) = router_requests(ChatRequest.model_validate({**body, "tool_choice": "none"}))
    (required,) = router_requests(ChatRequest.model_validate({**body, "tool_choice": "required"}))

    assert not none.chat.tools
    assert required.chat.tool_choice == pb.TOOL_CHOICE_REQUIRED

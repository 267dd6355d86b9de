"""Tests of request parsing: defaults, limits and the safety header."""

import pytest
from bem.engine import GenerationRequest, Sampling, ScaledAdapter
from bem.errors import InvalidRequestError
from bem.testing import tiny_backbone
from bem_fleet.services.router.request_parsing import (
    RequestedStrength,
    RequestParser,
    requested_safety_strength,
)
from bemfleet.router.v1 import router_pb2 as pb
from fleet.wire import SAFETY_MINIMUM, SAFETY_STRENGTH

PARSER = RequestParser(tiny_backbone().tokenizer, 64)


def parse(request: pb.GenerateRequest) -> object:
    """Parse a request of one adapter."""
    return PARSER.parse(request, adapter="a", safety_strength=0.5, deadline=9.0)


def test_defaults_fill_what_a_request_leaves_out() -> None:
    """Sampling, scale and output limit have defaults."""
    parsed = PARSER.parse(
        pb.GenerateRequest(prompt="hello"), adapter=None, safety_strength=0.0, deadline=None
    )

    assert parsed.sampling == Sampling()
    assert len(parsed.prompt_ids) == 5
    assert (parsed.max_tokens, parsed.min_tokens) == (16, 0)
    assert (parsed.stop_token_ids, parsed.ignore_eos) == (frozenset(), False)
    assert (parsed.adapter, parsed.adapter_scale, parsed.adapter_start) == (None, 1.0, 0)


def test_arguments_pass_through() -> None:
    """Adapter, strength and deadline are the host's."""
    parsed = PARSER.parse(
        pb.GenerateRequest(prompt="x"), adapter="a", safety_strength=0.5, deadline=9.0
    )

    assert (parsed.adapter, parsed.safety_strength, parsed.deadline) == ("a", 0.5, 9.0)


def test_an_echo_is_the_text_of_a_raw_prompt() -> None:
    """A conversation has no text that the output could begin with."""
    chat = pb.ChatPrompt(messages=[pb.ChatMessage(role="user", content="x")])
    parsed = parse(pb.GenerateRequest(prompt="hello", echo=True, max_tokens=0))

    assert isinstance(parsed, GenerationRequest)
    assert (parsed.echo, parsed.max_tokens) == ("hello", 0)
    with pytest.raises(InvalidRequestError, match="echo"):
        parse(pb.GenerateRequest(chat=chat, echo=True))


def composed(*adapters: pb.ScaledAdapter, own: str | None = "a") -> GenerationRequest:
    """Parse a request that names further adapters."""
    request = pb.GenerateRequest(prompt="x", adapter_scale=0.5, adapters=adapters)
    return PARSER.parse(request, adapter=own, safety_strength=0.0, deadline=None)


def test_named_adapters_follow_the_models_own() -> None:
    """Beside the base model the first of them takes the place of the model's adapter."""
    b, c = pb.ScaledAdapter(name="b", scale=0.25), pb.ScaledAdapter(name="c")
    first, second = composed(b, c), composed(b, c, own=None)

    assert (first.adapter, first.adapter_scale) == ("a", 0.5)
    assert first.further_adapters == (ScaledAdapter("b", 0.25), ScaledAdapter("c"))
    assert (second.adapter, second.adapter_scale) == ("b", 0.25)
    assert second.further_adapters == (ScaledAdapter("c"),)


@pytest.mark.parametrize(
    ("adapters", "field", "problem"),
    [
        ([pb.ScaledAdapter()], "adapters[0].name", "is empty"),
        ([pb.ScaledAdapter(name="a")], "adapters[0].name", "'a' is named twice"),
        ([pb.ScaledAdapter(name=n) for n in "bb"], "adapters[1].name", "'b' is named twice"),
        ([pb.ScaledAdapter(name="b", scale=2.5)], "adapters[0].scale", "[0, 2]"),
        ([pb.ScaledAdapter(name="b", scale=float("nan"))], "adapters[0].scale", "[0, 2]"),
        ([pb.ScaledAdapter(name=n) for n in "bcde"], "adapters", "5 adapters .* at most 4"),
    ],
)
def test_adapters_out_of_their_limits_are_named(
    adapters: list[pb.ScaledAdapter], field: str, problem: str
) -> None:
    """An empty or repeated name, a bad scale and one adapter too many are refused by name."""
    with pytest.raises(InvalidRequestError, match=problem.replace("[0, 2]", r"\[0, 2\]")) as caught:
        composed(*adapters)

    assert caught.value.field == field


def test_ends_of_the_output_pass_through() -> None:
    """Minimum, stops and ignored end tokens reach the engine; a stop text is text as it is."""
    parsed = PARSER.parse(
        pb.GenerateRequest(
            prompt="x",
            max_tokens=9,
            min_tokens=2,
            ignore_eos=True,
            stop=["<|im_end|>"],
            stop_token_ids=[7, 8, 7],
        ),
        adapter=None,
        safety_strength=0.0,
        deadline=None,
    )

    assert (parsed.min_tokens, parsed.ignore_eos) == (2, True)
    assert (parsed.stop, parsed.stop_token_ids) == (("<|im_end|>",), frozenset({7, 8}))


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.GenerateRequest(), "prompt"),
        (pb.GenerateRequest(prompt="x" * 64), "prompt"),
        (pb.GenerateRequest(prompt="x", max_tokens=64), "max_tokens"),
        (pb.GenerateRequest(prompt="x", max_tokens=0), "max_tokens"),
        (pb.GenerateRequest(prompt="x", sampling=pb.Sampling(top_p=2)), "sampling.top_p"),
        (pb.GenerateRequest(prompt="x", max_tokens=3, min_tokens=4), "min_tokens"),
        (pb.GenerateRequest(prompt="x", min_tokens=-1), "min_tokens"),
        (pb.GenerateRequest(prompt="x", stop_token_ids=[5000]), "stop_token_ids"),
        (pb.GenerateRequest(prompt="x", stop_token_ids=[-1]), "stop_token_ids"),
        (pb.GenerateRequest(prompt="x", stop_token_ids=[1] * 129), "stop_token_ids"),
        (pb.GenerateRequest(prompt="x", stop=[""]), "stop"),
        (pb.GenerateRequest(prompt="x", adapter_from_message=1), "adapter_from_message"),
    ],
)
def test_errors_name_field_and_limit(request_: pb.GenerateRequest, field: str) -> None:
    """The message has the form field, problem, limit."""
    with pytest.raises(InvalidRequestError) as caught:
        parse(request_)

    assert caught.value.field == field
    assert "; " in str(caught.value)


def test_the_last_safety_header_counts() -> None:
    """The header is a number in [0, 1]; without it the default applies."""
    twice: list[tuple[str, str | bytes]] = [(SAFETY_STRENGTH, "0"), (SAFETY_STRENGTH, b"0.25")]
    least = (SAFETY_MINIMUM, "0.5")

    assert requested_safety_strength([]) == RequestedStrength()
    assert requested_safety_strength(twice) == RequestedStrength(0.25)
    assert requested_safety_strength([*twice, least]) == RequestedStrength(0.25, 0.5)
    for text in ("high", "1.01", "nan"):
        with pytest.raises(InvalidRequestError, match=SAFETY_STRENGTH):
            requested_safety_strength([(SAFETY_STRENGTH, text)])

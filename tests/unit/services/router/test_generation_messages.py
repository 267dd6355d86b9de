"""Tests of the messages of generated text."""

from bem.engine import OutputDelta, TokenLogprob
from bem_fleet.services.router.generation_messages import complete_message, delta_message
from bemfleet.router.v1 import router_pb2 as pb


def test_reasons_have_their_names() -> None:
    """A delta in the middle has none."""
    assert delta_message(OutputDelta("a", 1)).finish_reason == pb.FINISH_REASON_UNSPECIFIED
    assert delta_message(OutputDelta("a", 1, "stop")).finish_reason == pb.FINISH_REASON_STOP
    assert complete_message(OutputDelta("a", 1, "length")).finish_reason == pb.FINISH_REASON_LENGTH


def test_log_probabilities_are_those_of_the_tokens() -> None:
    """Token, bytes and number are copied."""
    delta = OutputDelta("a", 1, "stop", (TokenLogprob(7, b"a", -0.5),))

    (found,) = delta_message(delta).logprobs

    assert not found.unconditioned
    assert (found.chosen.id, found.chosen.token, found.chosen.logprob) == (7, b"a", -0.5)


def test_first_token_of_an_echo_says_that_it_has_none() -> None:
    """A zero would be certainty."""
    first = TokenLogprob(7, b"a", 0.0, unconditioned=True)

    assert complete_message(OutputDelta("a", 0, "length", (first,))).logprobs[0].unconditioned

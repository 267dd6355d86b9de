"""Messages of generated text: output deltas and log-probabilities as protobuf."""

from bem.engine import OutputDelta, TokenLogprob, TopLogprob
from bemfleet.router.v1 import router_pb2 as pb

_FINISH = {
    None: pb.FINISH_REASON_UNSPECIFIED,
    "stop": pb.FINISH_REASON_STOP,
    "length": pb.FINISH_REASON_LENGTH,
}


def delta_message(delta: OutputDelta) -> pb.GenerateResponse:
    """Return text, reason and log-probabilities of a delta."""
    return pb.GenerateResponse(
        text=delta.text,
        finish_reason=_FINISH[delta.finish],
        logprobs=[_token_logprob(one) for one in delta.logprobs],
    )


def complete_message(output: OutputDelta) -> pb.CompleteResponse:
    """Return text, reason and log-probabilities of a complete output."""
    return pb.CompleteResponse(
        text=output.text,
        finish_reason=_FINISH[output.finish],
        logprobs=[_token_logprob(one) for one in output.logprobs],
    )


def _token_logprob(one: TokenLogprob) -> pb.TokenLogprob:
    top = [_likely_token(other) for other in one.top]
    return pb.TokenLogprob(chosen=_likely_token(one), top=top, unconditioned=one.unconditioned)


def _likely_token(one: TopLogprob) -> pb.LikelyToken:
    return pb.LikelyToken(id=one.token, token=one.text, logprob=one.logprob)

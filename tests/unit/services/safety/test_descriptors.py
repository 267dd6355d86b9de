"""What the sidecar may do to messages that it knows from descriptors only."""

from bem_fleet.services.safety.descriptors import Method
from bemfleet.router.v1 import router_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st
from inference import open_inference_pb2 as oip

GENERATE = Method(pb.DESCRIPTOR.services_by_name["RouterService"].methods_by_name["Generate"])
INFER = Method(
    oip.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name["ModelStreamInfer"]
)


@given(pieces=st.lists(st.text(max_size=9), min_size=1, max_size=12))
def test_joined_responses_say_what_the_single_ones_said(pieces: list[str]) -> None:
    """Texts follow each other; what only the first or the last response carries stays."""
    stream = [pb.GenerateResponse(text=piece) for piece in pieces]
    stream[0].model_version = "v1"
    stream[-1].finish_reason = pb.FINISH_REASON_LENGTH
    stream[-1].usage.completion_tokens = len(pieces)
    (joined,) = GENERATE.join([message.SerializeToString() for message in stream])

    assert pb.GenerateResponse.FromString(joined) == pb.GenerateResponse(
        text="".join(pieces),
        model_version="v1",
        finish_reason=pb.FINISH_REASON_LENGTH,
        usage=pb.Usage(completion_tokens=len(pieces)),
    )


def test_messages_that_do_not_say_they_may_be_joined_leave_as_they_came() -> None:
    """A foreign protocol's stream is passed on message by message, byte for byte."""
    raws = [b"", oip.ModelStreamInferResponse(error_message="x").SerializeToString()]

    assert INFER.join(raws) == raws

"""Method catalog: joining of streamed responses."""

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
def test_joined_response_equals_the_single_ones(pieces: list[str]) -> None:
    """Texts are concatenated; fields of the first and the last response are kept."""
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


def test_messages_that_are_not_joinable_are_unchanged() -> None:
    """A stream of another protocol is forwarded message by message, byte for byte."""
    raws = [b"", oip.ModelStreamInferResponse(error_message="x").SerializeToString()]

    assert INFER.join(raws) == raws

"""Text roles and field paths of messages."""

from bemfleet.access.v1 import access_pb2
from bemfleet.common.v1 import text_pb2
from bemfleet.mission.v1 import mission_pb2
from bemfleet.router.v1 import router_pb2 as pb
from fleet import bytes_tensors
from fleet.text_roles import (
    FINAL_RESPONSE,
    asks_exact_answer,
    ending_fields,
    ends_text,
    has_judged_text,
    model_field_path,
    role_of,
    text_fields,
    texts,
)
from google.protobuf import descriptor_pb2, descriptor_pool
from inference import open_inference_pb2 as oip

GENERATE = pb.GenerateRequest.DESCRIPTOR
RESPONSE = pb.GenerateResponse.DESCRIPTOR


def test_labels_are_left_out_and_nested_texts_have_paths() -> None:
    """Every text that is set has the path of its field; labels have none."""
    request = pb.GenerateRequest(model="m", stop=["x"])
    request.chat.messages.add(role="user", content="hello")

    assert [(path, text) for path, _, text in texts(request)] == [
        ("chat.messages[0].content", "hello"),
        ("stop", "x"),
    ]


def test_model_field_may_be_nested_or_absent() -> None:
    """The path leads through singular messages only."""
    assert model_field_path(GENERATE) == "model"
    assert model_field_path(pb.CompleteRequest.DESCRIPTOR) == "request.model"
    assert model_field_path(RESPONSE) == ""


def test_end_and_judged_text_are_known_from_the_type() -> None:
    """A stream's last field is named; a type of labels alone has no judged text."""
    assert ending_fields(RESPONSE) == ("finish_reason",)
    assert has_judged_text(RESPONSE)
    assert not has_judged_text(mission_pb2.ListAdaptersResponse.DESCRIPTOR)


def test_a_form_asks_for_an_exact_answer_at_any_depth() -> None:
    """The option counts where its field is set."""
    form = pb.StructuredOutput(json_object=True)
    request = pb.GenerateRequest(structured_output=form)

    assert asks_exact_answer(request)
    assert asks_exact_answer(pb.CompleteRequest(request=request))
    assert not asks_exact_answer(pb.GenerateRequest(prompt="x", sampling=pb.Sampling(seed=1)))


def test_options_are_read_from_a_foreign_pool() -> None:
    """A pool filled by reflection gives the same roles and paths as the generated one."""
    pool = descriptor_pool.DescriptorPool()
    for file in (
        *(descriptor_pb2.DESCRIPTOR, access_pb2.DESCRIPTOR),
        *(text_pb2.DESCRIPTOR, pb.DESCRIPTOR),
    ):
        pool.AddSerializedFile(file.serialized_pb)
    foreign = pool.FindMessageTypeByName(pb.CompleteRequest.DESCRIPTOR.full_name)

    assert model_field_path(foreign) == "request.model"
    assert [role_of(field) for field in text_fields(foreign)] == [
        role_of(field) for field in text_fields(pb.CompleteRequest.DESCRIPTOR)
    ]


def test_elements_of_raw_tensors_are_texts_of_their_own() -> None:
    """Length prefixes are no text; contents that lie about a length are judged as they are."""
    raw = bytes_tensors.pack([b"my card ", "é".encode()])
    response = oip.ModelInferResponse(raw_output_contents=[raw, b"\xff\0\0\0ab"])
    response.outputs.add(name="text_output").contents.bytes_contents.append(b"typed")
    response.parameters[FINAL_RESPONSE].bool_param = True

    assert [(role, text) for _, role, text in texts(response)] == [
        (text_pb2.TEXT_ROLE_OUTPUT_DELTA, "typed"),
        (text_pb2.TEXT_ROLE_OUTPUT_DELTA, "my card "),
        (text_pb2.TEXT_ROLE_OUTPUT_DELTA, "é"),
        (text_pb2.TEXT_ROLE_OUTPUT_DELTA, "\ufffd\0\0\0ab"),
    ]


def test_values_of_parameters_are_texts_and_their_names_are_not() -> None:
    """A stop text of a request is judged with the prompt."""
    request = oip.ModelInferRequest(model_name="m")
    request.parameters["stop"].string_param = "the end"

    assert [text for _, _, text in texts(request)] == ["the end"]


def test_the_final_flag_ends_the_text_of_one_request() -> None:
    """A piece says that more follows; an error and a response without the flag are complete."""
    piece, last = oip.ModelStreamInferResponse(), oip.ModelStreamInferResponse()
    piece.infer_response.parameters[FINAL_RESPONSE].bool_param = False
    last.infer_response.parameters[FINAL_RESPONSE].bool_param = True
    failed = oip.ModelStreamInferResponse(error_message="x")
    failed.infer_response.parameters[FINAL_RESPONSE].bool_param = False

    assert not ends_text(piece, ())
    assert all(ends_text(one, ()) for one in (last, failed, oip.ModelStreamInferResponse()))
    assert ends_text(pb.GenerateResponse(finish_reason=pb.FINISH_REASON_STOP), ("finish_reason",))
    assert not ends_text(pb.GenerateResponse(text="x"), ("finish_reason",))

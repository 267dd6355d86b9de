"""Model name, text and end of text in raw messages."""

from bem_fleet.services.gateway.method_fields import MethodFields
from bemfleet.mission.v1 import mission_pb2
from bemfleet.router.v1 import router_pb2 as pb

ROUTER = pb.DESCRIPTOR.services_by_name["RouterService"]
GENERATE = MethodFields(ROUTER.methods_by_name["Generate"])
COMPLETE = MethodFields(ROUTER.methods_by_name["Complete"])
CONTRACT = mission_pb2.DESCRIPTOR.services_by_name["MissionService"]


def test_nested_model_is_rewritten_and_the_rest_is_kept() -> None:
    """Unknown fields, as of a newer client, survive the rewriting."""
    request = pb.CompleteRequest(request=pb.GenerateRequest(model="qa", prompt="why?"))
    unknown = b"\xfa\x3f\x01x"  # field 127, of a newer proto
    renamed = COMPLETE.with_model(request.SerializeToString() + unknown, "qa-v2")

    assert COMPLETE.model_of(renamed) == "qa-v2"
    assert pb.CompleteRequest.FromString(renamed).request.prompt == "why?"
    assert unknown in renamed


def test_absent_parent_is_an_empty_model() -> None:
    """A request without the nested message names no model, and can still be given one."""
    assert COMPLETE.model_of(b"") == ""
    assert COMPLETE.model_of(COMPLETE.with_model(b"", "qa")) == "qa"
    assert not MethodFields(CONTRACT.methods_by_name["ListAdapters"]).names_model


def test_text_or_its_end_speaks_and_labels_do_not() -> None:
    """The version, a label, may still be taken back; text and finish reason may not."""
    spoken = {
        name: (GENERATE.speaks(raw), GENERATE.read(raw).completes)
        for name, raw in {
            "label": pb.GenerateResponse(model_version="v").SerializeToString(),
            "text": pb.GenerateResponse(text="a").SerializeToString(),
            "end": pb.GenerateResponse(finish_reason=pb.FINISH_REASON_STOP).SerializeToString(),
        }.items()
    }

    assert spoken == {"label": (False, False), "text": (True, False), "end": (True, True)}


def test_unary_response_speaks_and_completes() -> None:
    """There is nothing after it."""
    assert COMPLETE.speaks(b"")
    assert COMPLETE.read(b"").completes


def test_text_and_its_limit_are_read_from_any_answer() -> None:
    """White space is no text; a finish reason may say that a limit cut the answer off."""
    responses = {
        "blank": pb.CompleteResponse(text=" \n", finish_reason=pb.FINISH_REASON_STOP),
        "whole": pb.CompleteResponse(text="a", finish_reason=pb.FINISH_REASON_STOP),
        "cut": pb.CompleteResponse(text="a", finish_reason=pb.FINISH_REASON_LENGTH),
    }
    facts = {name: COMPLETE.read(one.SerializeToString()) for name, one in responses.items()}

    assert {name: (one.has_text, one.truncates) for name, one in facts.items()} == {
        "blank": (False, False),
        "whole": (True, False),
        "cut": (True, True),
    }
    assert COMPLETE.answers_with_text
    assert not MethodFields(CONTRACT.methods_by_name["ListAdapters"]).answers_with_text


def test_only_a_stream_with_an_end_can_be_broken_off() -> None:
    """A unary answer is complete by arriving."""
    assert GENERATE.marks_end
    assert not COMPLETE.marks_end

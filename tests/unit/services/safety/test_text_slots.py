"""Text slots of a message."""

import struct

from bem_fleet.services.safety.text_slots import text_slots
from bemfleet.fleet.v1 import fleet_pb2
from bemfleet.router.v1 import router_pb2 as pb
from bemfleet.safety.v1 import safety_pb2
from google.protobuf import struct_pb2
from google.protobuf.json_format import MessageToDict
from google.rpc import error_details_pb2
from inference import open_inference_pb2 as oip

from tests.unit.services.safety.test_token_redaction import logprobs


def raw(*texts: str) -> bytes:
    """Return raw contents of a BYTES tensor."""
    return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)


def test_labels_and_tokens_are_no_texts() -> None:
    """Names are the server's, and tokens follow the text that they spell."""
    message = pb.CompleteResponse(text="t", model_version="v", logprobs=logprobs("t"))

    assert [slot.path for slot in text_slots(message)] == ["text"]
    assert not list(text_slots(safety_pb2.ScoreResponse(scores={"toxicity": 1})))


def test_each_text_can_be_replaced() -> None:
    """Fields, elements, entries of maps and elements of raw tensors, with their lengths."""
    request = pb.GenerateRequest(prompt="p", stop=["a", "b"])
    info = error_details_pb2.ErrorInfo(metadata={"k": "v"})
    infer = oip.ModelInferResponse(raw_output_contents=[raw("one", "two")])
    infer.outputs.add().contents.bytes_contents.append(b"three")
    for message in (request, info, infer):
        for slot in text_slots(message):
            if slot.replace:
                slot.replace(f"{slot.text}é")

    assert request == pb.GenerateRequest(prompt="pé", stop=["aé", "bé"])
    assert dict(info.metadata) == {"k": "vé"}
    assert infer.raw_output_contents[0] == raw("oneé", "twoé")
    assert infer.outputs[0].contents.bytes_contents[0] == "threeé".encode()


def test_free_form_structures_are_judged_at_any_depth() -> None:
    """Keys and strings of a Struct carry no role, so that each of them is a text."""
    message = struct_pb2.Struct()
    message.update({"alpha": 0.05, "probes": [{"answers": ["Paris"]}]})
    owner = fleet_pb2.StartCanaryRequest(canary=message)

    found = {slot.text: slot.replace for slot in text_slots(owner)}
    assert set(found) == {"alpha", "probes", "answers", "Paris"}
    replace = found["Paris"]
    assert replace is not None
    replace("[redacted]")
    assert MessageToDict(owner.canary)["probes"] == [{"answers": ["[redacted]"]}]


def test_bytes_that_are_no_text_are_judged_and_not_replaced() -> None:
    """Numbers in a raw tensor would be broken by another text."""
    message = oip.ModelInferResponse(raw_output_contents=[b"\xff\xfe\xfd\xfc12"])
    (slot,) = text_slots(message)

    assert slot.replace is None
    assert slot.text.endswith("12")

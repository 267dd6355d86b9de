"""Response guard: complete responses, streams, redaction and failures."""

import pytest
from bem_fleet.guard.findings import Finding, ScoringQuery, Span
from bem_fleet.guard.policy import DEFAULT_POLICY, load_policy
from bem_fleet.services.safety.audit import AuditRecord
from bem_fleet.services.safety.descriptors import Method
from bem_fleet.services.safety.evaluator import PolicyEvaluator
from bem_fleet.services.safety.holdback import HoldBack
from bem_fleet.services.safety.response_guard import ResponseGuard
from bemfleet.router.v1 import router_pb2 as pb
from fleet import bytes_tensors
from fleet.errors import DeniedError, UnavailableError
from fleet.text_roles import FINAL_RESPONSE
from inference import open_inference_pb2 as oip

from tests.unit.services.safety.test_evaluator import RecordingScorer

POLICY = load_policy(DEFAULT_POLICY)
METHODS = pb.DESCRIPTOR.services_by_name["RouterService"].methods_by_name
STREAM_INFER = oip.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name[
    "ModelStreamInfer"
]
INFER = oip.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name["ModelInfer"]
MAIL = "jane@example.com"


class MailScorer(RecordingScorer):
    """Reports one e-mail address."""

    async def score(self, query: ScoringQuery) -> Finding:
        """Return the span of the address, if it is there."""
        self.queries.append(query)
        start = query.text.find(MAIL)
        if start < 0:
            return Finding(dict.fromkeys(query.scorers, 0.0))
        span = Span(start, start + len(MAIL), "EMAIL_ADDRESS", 1.0, "pii")
        return Finding({"pii": 1.0, "secrets": 0.0}, (span,))


def guard(method: Method, *, toxicity: float = 0.0, window: int = 0) -> ResponseGuard:
    """Return a guard with scorers in memory."""
    evaluator = PolicyEvaluator(RecordingScorer(toxicity), MailScorer(), lambda: POLICY)
    return ResponseGuard(method, evaluator, AuditRecord("m"), HoldBack(window, 64, 1))


async def test_complete_response_is_redacted() -> None:
    """The span is replaced, other fields stay; the record counts text and spans."""
    subject = guard(Method(METHODS["Complete"]))
    response = pb.CompleteResponse(text=f"mail {MAIL}", model_version="v1")
    filtered = pb.CompleteResponse.FromString(
        await subject.filter_message(response.SerializeToString())
    )

    assert (filtered.text, filtered.model_version) == ("mail [EMAIL_ADDRESS]", "v1")
    assert (subject.record.chars, subject.record.redacted) == (len(response.text), 1)


async def test_clean_response_is_unchanged() -> None:
    """The same bytes leave."""
    raw = pb.CompleteResponse(text="hello").SerializeToString()

    assert await guard(Method(METHODS["Complete"])).filter_message(raw) == raw


async def test_stream_is_released_behind_the_window() -> None:
    """Text leaves when the window behind it is evaluated, the rest at the end of the stream."""
    subject = guard(Method(METHODS["Generate"]), window=8)
    for text in ("one two ", "three four"):
        await subject.add(pb.GenerateResponse(text=text).SerializeToString())
    await subject.evaluate_pending(ended=False)
    early = [pb.GenerateResponse.FromString(raw).text for raw in subject.release(ended=False)]
    await subject.evaluate_pending(ended=True)
    late = [pb.GenerateResponse.FromString(raw).text for raw in subject.release(ended=True)]

    assert (early, late) == (["one two "], ["three four"])


async def test_violating_stream_is_denied() -> None:
    """Nothing of the evaluated text is released."""
    subject = guard(Method(METHODS["Generate"]), toxicity=1.0)
    await subject.add(pb.GenerateResponse(text="text").SerializeToString())
    with pytest.raises(DeniedError, match="withheld"):
        await subject.evaluate_pending(ended=True)

    assert list(subject.release(ended=True)) == []


async def test_span_in_bytes_withholds_the_response() -> None:
    """Bytes cannot be redacted; the error names the field."""
    raw = oip.ModelInferResponse(raw_output_contents=[MAIL.encode()]).SerializeToString()
    with pytest.raises(DeniedError, match="raw_output_contents"):
        await guard(Method(INFER)).filter_message(raw)


async def test_unreadable_response_is_blocked() -> None:
    """A response that cannot be parsed is the mission's fault, not the client's."""
    with pytest.raises(UnavailableError, match="CompleteResponse"):
        await guard(Method(METHODS["Complete"])).filter_message(b"\xff")


def piece(text: str, *, final: bool = False, raw: bool = False) -> bytes:
    """Return a piece of an answer in a stream of the Open Inference Protocol."""
    message = oip.ModelStreamInferResponse()
    response = message.infer_response
    response.parameters[FINAL_RESPONSE].bool_param = final
    output = response.outputs.add(name="text_output", datatype="BYTES", shape=[1])
    if raw:
        response.raw_output_contents.append(bytes_tensors.pack([text.encode()]))
    else:
        output.contents.bytes_contents.append(text.encode())
    return message.SerializeToString()


@pytest.mark.parametrize("raw", [False, True])
async def test_address_split_over_pieces_of_an_inference_stream_is_withheld(raw: bool) -> None:
    """Pieces are one text: no part of an address that several of them spell leaves."""
    subject = guard(Method(STREAM_INFER), window=8)
    released = []
    for text in ("one two three ", *MAIL):
        await subject.add(piece(text, raw=raw))
        await subject.evaluate_pending(ended=False)
        released += list(subject.release(ended=False))
    await subject.add(piece(" now", final=True, raw=raw))
    await subject.evaluate_pending(ended=False)
    with pytest.raises(DeniedError, match="cannot be redacted"):
        list(subject.release(ended=False))

    assert released == [piece("one two three ", raw=raw)]


async def test_final_piece_releases_an_answer_of_an_open_stream() -> None:
    """A client that waits for the whole answer before its next request gets it."""
    subject = guard(Method(STREAM_INFER), window=64)
    pieces = [piece("one "), piece("two", final=True)]
    await subject.add(pieces[0])
    await subject.evaluate_pending(ended=False)
    early = list(subject.release(ended=False))
    await subject.add(pieces[1])
    await subject.evaluate_pending(ended=False)

    assert early == []
    assert list(subject.release(ended=False)) == pieces

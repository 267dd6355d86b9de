"""Response guard: complete responses, streams, redaction and failures."""

import re

import pytest
from bem_fleet.guard.findings import Finding, ScoringQuery, Span
from bem_fleet.guard.policy import DEFAULT_POLICY, load_policy
from bem_fleet.services.safety.audit import AuditRecord
from bem_fleet.services.safety.descriptors import Method
from bem_fleet.services.safety.evaluator import PolicyEvaluator
from bem_fleet.services.safety.holdback import HoldBack
from bem_fleet.services.safety.request_guard import CheckedRequest
from bem_fleet.services.safety.response_guard import ResponseGuard
from bemfleet.router.v1 import router_pb2 as pb
from fleet import bytes_tensors
from fleet.errors import DeniedError, UnavailableError
from fleet.text_roles import FINAL_RESPONSE
from inference import open_inference_pb2 as oip

from tests.unit.services.safety.test_evaluator import RecordingScorer
from tests.unit.services.safety.test_text_slots import raw
from tests.unit.services.safety.test_token_redaction import logprobs

POLICY = load_policy(DEFAULT_POLICY)
METHODS = pb.DESCRIPTOR.services_by_name["RouterService"].methods_by_name
INFERENCE = oip.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
INFER, STREAM_INFER = INFERENCE["ModelInfer"], INFERENCE["ModelStreamInfer"]
MAIL = "jane@example.com"


class MailScorer(RecordingScorer):
    """Reports each occurrence of one e-mail address."""

    async def score(self, query: ScoringQuery, client: str = "") -> Finding:  # noqa: ARG002
        """Return the span of the address, if it is there."""
        self.queries.append(query)
        places = [match.span() for match in re.finditer(re.escape(MAIL), query.text)]
        spans = tuple(Span(*place, "EMAIL_ADDRESS", 1.0, "pii") for place in places)
        scores = dict.fromkeys(query.scorers, 0.0)
        return Finding(scores | {"pii": 1.0} if spans else scores, spans)


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
    clean = pb.CompleteResponse(text="hello").SerializeToString()

    assert await guard(Method(METHODS["Complete"])).filter_message(clean) == clean


async def test_stream_is_released_behind_the_window() -> None:
    """Text leaves when the window behind it is evaluated, the rest at the end of the stream."""
    subject = guard(Method(METHODS["Generate"]), window=8)
    for text in ("one two ", "three four"):
        await subject.add(pb.GenerateResponse(text=text).SerializeToString())
    await subject.evaluate_pending(ended=False)
    early = [pb.GenerateResponse.FromString(raw).text async for raw in subject.release(ended=False)]
    await subject.evaluate_pending(ended=True)
    late = [pb.GenerateResponse.FromString(raw).text async for raw in subject.release(ended=True)]

    assert (early, late) == (["one two "], ["three four"])


async def test_violating_stream_is_denied() -> None:
    """Nothing of the evaluated text is released."""
    subject = guard(Method(METHODS["Generate"]), toxicity=1.0)
    await subject.add(pb.GenerateResponse(text="text").SerializeToString())
    with pytest.raises(DeniedError, match="withheld"):
        await subject.evaluate_pending(ended=True)

    assert [raw async for raw in subject.release(ended=True)] == []


async def test_span_in_a_tensor_is_redacted() -> None:
    """Each element of raw contents carries its length, and keeps a right one."""
    response = oip.ModelInferResponse(raw_output_contents=[raw(f"mail {MAIL}", "two")])
    filtered = await guard(Method(INFER)).filter_message(response.SerializeToString())

    assert oip.ModelInferResponse.FromString(filtered).raw_output_contents == [
        raw("mail [EMAIL_ADDRESS]", "two")
    ]


async def test_span_in_other_bytes_withholds_the_response() -> None:
    """Numbers cannot be redacted; the error names the field and the rule."""
    numbers = b"\xff\xfe\xfd\xfc" + MAIL.encode()
    response = oip.ModelInferResponse(raw_output_contents=[numbers]).SerializeToString()
    with pytest.raises(DeniedError, match="raw_output_contents") as caught:
        await guard(Method(INFER)).filter_message(response)

    assert caught.value.metadata["category"] == "pii"
    assert caught.value.metadata["score"] == "1.000"


async def test_fields_that_no_descriptor_describes_are_dropped() -> None:
    """They could not be judged."""
    response = pb.CompleteResponse(text="hello").SerializeToString()
    unknown = b"\xfa\x3f" + bytes([len(MAIL)]) + MAIL.encode()

    assert await guard(Method(METHODS["Complete"])).filter_message(response + unknown) == response


@pytest.mark.parametrize("prompt", ["Write to jane@exam", "Write to jane@"])
async def test_finding_over_the_border_of_prompt_and_answer_is_cut_from_the_answer(
    prompt: str,
) -> None:
    """Unary and streamed; the prompt's own part is the client's."""
    rest = MAIL.removeprefix(prompt.removeprefix("Write to "))
    unary = guard(Method(METHODS["Complete"]))
    unary.begin(CheckedRequest(prompt, (prompt,)))
    answer = pb.CompleteResponse(text=f"{rest} now", logprobs=logprobs(rest, " now"))
    filtered = pb.CompleteResponse.FromString(
        await unary.filter_message(answer.SerializeToString())
    )
    stream = guard(Method(METHODS["Generate"]), window=8)
    stream.begin(CheckedRequest(prompt, (prompt,)))
    for text in (rest[:2], rest[2:], " now"):
        piece = pb.GenerateResponse(text=text, logprobs=logprobs(text))
        await stream.add(piece.SerializeToString())
    await stream.evaluate_pending(ended=True)
    (joined,) = [pb.GenerateResponse.FromString(one) async for one in stream.release(ended=True)]

    assert filtered.text == joined.text == "[EMAIL_ADDRESS] now"
    for response, emptied in ((filtered, []), (joined, [b""])):
        tokens = [one.chosen.token for one in response.logprobs]
        assert tokens == [b"[EMAIL_ADDRESS]", *emptied, b" now"]


async def test_finding_within_the_prompt_is_no_violation() -> None:
    """The client's own address in its own prompt redacts nothing of the answer."""
    subject = guard(Method(METHODS["Complete"]))
    prompt = f"Write to {MAIL}"
    subject.begin(CheckedRequest(prompt, (prompt,)))
    raw_answer = pb.CompleteResponse(text=" and wait.").SerializeToString()

    assert await subject.filter_message(raw_answer) == raw_answer
    assert subject.record.redacted == 0


async def test_answers_of_a_stream_are_judged_with_their_own_requests() -> None:
    """The second answer continues the second request."""
    subject = guard(Method(STREAM_INFER))
    local, domain = MAIL.split("@")
    for prompt in ("one", f"{local}@"):
        subject.begin(CheckedRequest(prompt, (prompt,)))
    out = []
    for text in ("two", f"{domain} three"):
        response = oip.ModelInferResponse(raw_output_contents=[raw(text)])
        message = oip.ModelStreamInferResponse(infer_response=response)
        await subject.add(message.SerializeToString())
        await subject.evaluate_pending(ended=False)
        out += [one async for one in subject.release(ended=True)]
    contents = [
        oip.ModelStreamInferResponse.FromString(one).infer_response.raw_output_contents[0]
        for one in out
    ]

    assert contents == [raw("two"), raw("[EMAIL_ADDRESS] three")]


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
async def test_address_split_over_pieces_of_an_inference_stream_is_redacted(raw: bool) -> None:
    """Pieces are one text: no part of an address that several of them spell leaves."""
    subject = guard(Method(STREAM_INFER), window=8)
    released = []
    for text in ("one two three ", *MAIL):
        await subject.add(piece(text, raw=raw))
        await subject.evaluate_pending(ended=False)
        released += [one async for one in subject.release(ended=False)]
    await subject.add(piece(" now", final=True, raw=raw))
    await subject.evaluate_pending(ended=False)
    rest = [one async for one in subject.release(ended=False)]

    assert released == [piece("one two three ", raw=raw)]
    assert rest == [
        piece("[EMAIL_ADDRESS]", raw=raw),
        *[piece("", raw=raw)] * (len(MAIL) - 1),
        piece(" now", final=True, raw=raw),
    ]


async def test_final_piece_releases_an_answer_of_an_open_stream() -> None:
    """A client that waits for the whole answer before its next request gets it."""
    subject = guard(Method(STREAM_INFER), window=64)
    pieces = [piece("one "), piece("two", final=True)]
    await subject.add(pieces[0])
    await subject.evaluate_pending(ended=False)
    early = [one async for one in subject.release(ended=False)]
    await subject.add(pieces[1])
    await subject.evaluate_pending(ended=False)

    assert early == []
    assert [one async for one in subject.release(ended=False)] == pieces


async def test_a_structured_output_is_exact_or_withheld() -> None:
    """What would be redacted elsewhere is withheld: a cut text has no form."""
    clean = pb.CompleteResponse(text='{"a": 1}').SerializeToString()
    found = pb.CompleteResponse(text=f'{{"a": "{MAIL}"}}').SerializeToString()
    subject = guard(Method(METHODS["Complete"]))
    subject.begin(CheckedRequest(exact=True))

    assert await subject.filter_message(clean) == clean
    with pytest.raises(DeniedError, match="structured output"):
        await subject.filter_message(found)


async def test_a_structured_stream_ends_before_what_would_be_redacted() -> None:
    """The text before the finding may have left, nothing of the finding and nothing behind it."""
    subject = guard(Method(METHODS["Generate"]), window=8)
    subject.begin(CheckedRequest(exact=True))
    for text in ('{"long enough": 1, ', f'"mail": "{MAIL}"'):
        await subject.add(pb.GenerateResponse(text=text).SerializeToString())
        if MAIL in text:
            with pytest.raises(DeniedError, match="structured output"):
                await subject.evaluate_pending(ended=True)
        else:
            await subject.evaluate_pending(ended=False)


async def test_a_finding_in_the_continued_prompt_withholds_no_structured_output() -> None:
    """Only a finding that reaches into the answer would be cut out of it."""
    subject = guard(Method(METHODS["Complete"]))
    subject.begin(CheckedRequest(MAIL, (f"{MAIL} ",), exact=True))
    clean = pb.CompleteResponse(text='{"a": 1}').SerializeToString()

    assert await subject.filter_message(clean) == clean


async def test_an_answer_is_judged_once_after_texts_that_end_alike() -> None:
    """A batch that repeats one text costs one evaluation, not one for each."""
    counts = []
    for continued in (("a", "b"), ("a", "a", "b", "b", "a")):
        fast = RecordingScorer()
        subject = guard(Method(INFER))
        subject._evaluator = PolicyEvaluator(fast, MailScorer(), lambda: POLICY)
        subject.begin(CheckedRequest("\n".join(continued), continued))
        response = oip.ModelInferResponse(raw_output_contents=[raw("an answer")])
        await subject.filter_message(response.SerializeToString())
        counts.append(len(fast.queries))

    assert counts[0] == counts[1] > 0

"""Tokens: alignment with the text, redaction with it, and fields by their options."""

from collections.abc import Sequence

from bem_fleet.guard.findings import Span
from bem_fleet.guard.spans import redact
from bem_fleet.services.safety.token_redaction import (
    TokenAligner,
    bare_tokens,
    entry_fields,
    layout_of,
    redact_entries,
)
from bemfleet.router.v1 import router_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st
from inference import open_inference_pb2 as oip


def logprobs(*tokens: str | bytes, top: Sequence[str] = ()) -> list[pb.TokenLogprob]:
    """Return the log-probabilities of tokens, each with the same alternatives."""
    return [
        pb.TokenLogprob(
            chosen=pb.LikelyToken(
                id=index + 1,
                token=token if isinstance(token, bytes) else token.encode(),
                logprob=-0.5,
            ),
            top=[pb.LikelyToken(id=9, token=one.encode(), logprob=-1) for one in top],
        )
        for index, token in enumerate(tokens)
    ]


def spelled(response: pb.CompleteResponse) -> bytes:
    """Return the text that the tokens spell."""
    return b"".join(one.chosen.token for one in response.logprobs)


def test_fields_are_found_by_their_options() -> None:
    """The piece lies outside of the alternatives."""
    (entries,) = entry_fields(pb.GenerateResponse.DESCRIPTOR)
    layout = layout_of(pb.TokenLogprob.DESCRIPTOR)

    assert entries.name == "logprobs"
    assert [field.name for field in layout.piece] == ["chosen", "token"]
    assert [field.name for field in layout.alternatives] == ["top"]
    assert [field.name for field in layout.marks] == ["redacted"]


@given(
    words=st.lists(st.text(alphabet="ab@ é😀", min_size=1, max_size=5), min_size=1, max_size=12),
    span=st.tuples(st.integers(0, 40), st.integers(1, 9)),
    size=st.integers(1, 3),
)
def test_tokens_spell_the_redacted_text(words: list[str], span: tuple[int, int], size: int) -> None:
    """However characters are spread over tokens, no token spells what the text lost."""
    text = "".join(words)
    raw = text.encode()
    tokens = [raw[at : at + size] for at in range(0, len(raw), size)]
    response = pb.CompleteResponse(text=text, logprobs=logprobs(*tokens, top=["z"]))
    start, length = span
    spans = (
        [Span(start, min(len(text), start + length), "X", 1, "pii")] if start < len(text) else []
    )
    redact_entries(response.logprobs, TokenAligner(), text, len(text), spans)

    assert spelled(response).decode() == redact(text, spans)
    assert all(one.redacted == (not one.top) for one in response.logprobs)
    assert all(one.chosen.id and one.top for one in response.logprobs if not one.redacted)


def test_tokens_that_are_not_in_the_text_are_emptied() -> None:
    """A stop text or a control token is in no judged text; what follows is aligned again."""
    response = pb.CompleteResponse(text="ab cd", logprobs=logprobs("ab", "<|x|>", " c", "d", "@ef"))
    kept = redact_entries(response.logprobs, TokenAligner(), "ab cd", 5, [])

    assert spelled(response) == b"ab cd"
    emptied = [response.logprobs[index] for index in (1, 4)]
    assert len(response.logprobs) == 5  # clients count tokens
    assert all(
        one == pb.TokenLogprob(chosen=pb.LikelyToken(token=b""), redacted=True) for one in emptied
    )
    assert [(one.start, one.end) for one in kept] == [(0, 2), (2, 4), (4, 5)]


def test_first_blank_may_be_missing_and_the_limit_is_kept() -> None:
    """Some tokenizers drop the first blank; text of a later message is not covered yet."""
    response = pb.CompleteResponse(logprobs=logprobs(" ab", " cd"))
    redact_entries(response.logprobs, TokenAligner(4), "abc ab cd", 6, [])

    assert spelled(response) == b" ab"


def test_ids_outside_of_entries_are_found() -> None:
    """Contents of number tensors may be token ids."""
    message = oip.ModelInferResponse()
    message.outputs.add().contents.int64_contents.append(7)

    assert bare_tokens(message)
    assert not bare_tokens(pb.CompleteResponse(logprobs=logprobs("a")))

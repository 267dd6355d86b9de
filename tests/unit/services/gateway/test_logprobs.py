"""Log-probabilities in OpenAI's two formats."""

from bem_fleet.services.gateway.logprobs import LogprobFormatter
from bemfleet.router.v1 import router_pb2 as pb


def token(spelt: bytes, logprob: float = -0.5) -> pb.TokenLogprob:
    """A token with itself as the likeliest."""
    likely = pb.LikelyToken(id=1, token=spelt, logprob=logprob)
    return pb.TokenLogprob(chosen=likely, top=[likely])


def test_offsets_go_on_over_pieces_and_count_characters() -> None:
    """A character of several tokens has one place."""
    formatter = LogprobFormatter("text_completion", enabled=True)
    first = formatter.format([token(b"ab"), token("é".encode()[:1])])
    second = formatter.format([token("é".encode()[1:]), token(b"c")])

    assert first is not None
    assert second is not None
    assert first["text_offset"] == [0, 2]
    assert second["text_offset"] == [2, 3]
    assert first["tokens"] == ["ab", "\ufffd"]
    assert first["top_logprobs"][0] == {"ab": -0.5}


def test_chat_form_keeps_the_bytes() -> None:
    """Parts of a character can be put together by the client."""
    content = LogprobFormatter("chat.completion", enabled=True).format([token("é".encode()[:1])])

    assert content is not None
    assert content["content"][0]["bytes"] == [0xC3]
    assert content["content"][0]["top_logprobs"][0]["logprob"] == -0.5


def test_nothing_is_null_unless_asked_for() -> None:
    """Without the wish there is no object at all, whatever came."""
    assert LogprobFormatter("chat.completion", enabled=False).format([token(b"a")]) is None

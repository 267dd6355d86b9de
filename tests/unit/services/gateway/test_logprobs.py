"""Log-probabilities in OpenAI's two formats."""

import pytest
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
    assert first["tokens"] == ["ab", "bytes:\\xc3"]
    assert first["top_logprobs"][0] == {"ab": -0.5}


def test_replaced_token_has_no_log_probability() -> None:
    """OpenAI's value for one that is not known, in both formats."""
    likely = pb.LikelyToken(token=b"[EMAIL_ADDRESS]")
    replaced = pb.TokenLogprob(chosen=likely, redacted=True)
    text = LogprobFormatter("text_completion", enabled=True).format([replaced])
    chat = LogprobFormatter("chat.completion", enabled=True).format([replaced])

    assert text is not None
    assert chat is not None
    assert text["token_logprobs"] == [-9999.0]
    assert chat["content"][0]["logprob"] == -9999.0
    assert chat["content"][0]["token"] == "[EMAIL_ADDRESS]"


def test_first_token_of_an_echo_has_none() -> None:
    """OpenAI's null, for the value and for the alternatives."""
    first = pb.TokenLogprob(chosen=pb.LikelyToken(id=4, token=b"a"), unconditioned=True)
    formatted = LogprobFormatter("text_completion", enabled=True).format([first, token(b"b")])

    assert formatted is not None
    assert formatted["token_logprobs"] == [None, -0.5]
    assert formatted["top_logprobs"] == [None, {"b": -0.5}]


def test_chosen_token_is_among_the_most_likely_in_text_completions() -> None:
    """OpenAI adds it to those that are asked for; a replaced one has no value."""
    likely = pb.LikelyToken(id=1, token=b"x", logprob=-0.1)
    chosen = pb.LikelyToken(id=2, token=b"y", logprob=-3.0)
    entries = [
        pb.TokenLogprob(chosen=chosen, top=[likely]),
        pb.TokenLogprob(chosen=chosen),
        pb.TokenLogprob(chosen=pb.LikelyToken(token=b"[X]"), redacted=True),
    ]
    formatted = LogprobFormatter("text_completion", enabled=True).format(entries)

    assert formatted is not None
    assert formatted["top_logprobs"] == [
        {"x": pytest.approx(-0.1), "y": -3.0},
        {"y": -3.0},
        {"[X]": -9999.0},
    ]


def test_chat_form_keeps_the_bytes() -> None:
    """Parts of a character can be put together by the client."""
    content = LogprobFormatter("chat.completion", enabled=True).format([token("é".encode()[:1])])

    assert content is not None
    assert content["content"][0]["bytes"] == [0xC3]
    assert content["content"][0]["token"] == "\\xc3"
    assert content["content"][0]["top_logprobs"][0]["logprob"] == -0.5


def test_each_alternative_has_its_entry_and_its_value() -> None:
    """Parts of different characters differ, and so do tokens that have the same bytes."""
    spelt = [b"\xf0\x9f", b"\xf0\x9f\x98", b" \xf0\x9f", b"\xf0\x9f", "\ufffd".encode(), b"a"]
    top = [pb.LikelyToken(id=10 + at, token=one, logprob=-1.0 - at) for at, one in enumerate(spelt)]
    formatted = LogprobFormatter("text_completion", enabled=True).format(
        [pb.TokenLogprob(chosen=top[0], top=top)]
    )

    assert formatted is not None
    assert formatted["top_logprobs"] == [
        {
            "bytes:\\xf0\\x9f": -1.0,
            "bytes:\\xf0\\x9f\\x98": -2.0,
            "bytes: \\xf0\\x9f": -3.0,
            "token_id:13": -4.0,
            "\ufffd": -5.0,
            "a": -6.0,
        }
    ]


def test_nothing_is_null_unless_asked_for() -> None:
    """Without the wish there is no object at all, whatever came."""
    assert LogprobFormatter("chat.completion", enabled=False).format([token(b"a")]) is None

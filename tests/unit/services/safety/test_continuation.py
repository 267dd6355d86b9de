"""Texts of a request that its answer continues."""

import pytest
from bem_fleet.guard.scoring.secret_patterns import recognisable_end
from bem_fleet.services.safety.continuation import MAX_CONTINUED, continued_texts, end_of
from bemfleet.mission.v1 import mission_pb2
from bemfleet.router.v1 import router_pb2 as pb
from fleet.errors import InvalidArgumentError
from inference import open_inference_pb2 as oip

from tests.unit.services.safety.test_text_slots import raw


def chat(*roles: str) -> pb.GenerateRequest:
    """Return a conversation of one message for each role."""
    messages = [pb.ChatMessage(role=role, content=f"by {role}") for role in roles]
    return pb.GenerateRequest(chat=pb.ChatPrompt(messages=messages), stop=["@"])


def test_prompts_are_continued_and_questions_are_not() -> None:
    """A conversation is continued if its last message is the assistant's own."""
    assert continued_texts(pb.GenerateRequest(prompt="p", stop=["@"])) == ("p",)
    assert continued_texts(pb.GenerateRequest(prompt="p", echo=True)) == ()  # it is in the answer
    assert continued_texts(chat("user")) == ()
    assert continued_texts(chat("user", "assistant")) == ("by assistant",)
    assert continued_texts(chat("user", "assistant", "user")) == ()
    assert continued_texts(mission_pb2.ProbeRequest(prompt="p")) == ()


def test_each_text_of_a_batch_is_continued() -> None:
    """Typed and raw contents of the Open Inference Protocol, in order."""
    typed = oip.ModelInferRequest()
    typed.inputs.add().contents.bytes_contents.extend([b"one", b"two"])

    assert continued_texts(typed) == ("one", "two")
    assert continued_texts(oip.ModelInferRequest(raw_input_contents=[raw("a", "b")])) == ("a", "b")


@pytest.mark.parametrize("kind", ["typed", "raw", "one tensor", "both"])
def test_number_of_texts_is_limited(kind: str) -> None:
    """A thousand texts would be judged a thousand times; the error names the field."""

    def request(count: int) -> oip.ModelInferRequest:
        texts = [str(number) for number in range(count)]
        if kind == "raw":
            return oip.ModelInferRequest(raw_input_contents=[raw(text) for text in texts])
        made, typed = oip.ModelInferRequest(), texts
        if kind == "both":
            typed, other = texts[:10], texts[10:]
            made.raw_input_contents.append(raw(*other))
        if kind == "one tensor":
            made.inputs.add().contents.bytes_contents.extend(one.encode() for one in typed)
        else:
            for one in typed:
                made.inputs.add().contents.bytes_contents.append(one.encode())
        return made

    assert len(continued_texts(request(MAX_CONTINUED))) == MAX_CONTINUED
    with pytest.raises(InvalidArgumentError, match="more than 64 texts") as raised:
        continued_texts(request(MAX_CONTINUED + 1))
    assert str(raised.value).startswith(("inputs", "raw_input_contents"))


def test_end_keeps_the_beginning_of_what_is_unfinished() -> None:
    """A key block, or a token that is longer than the end, is recognised by its beginning."""
    begin = "-----BEGIN PRIVATE KEY-----\n"
    key = begin + "MIIEvQIBADANBgkqhkiG9w0B\n" * 90
    token = "eyJ" + "a1" * 600

    assert end_of("one two three", 5) == "three"
    assert end_of("short", 512) == "short"
    assert end_of(f"See {key}", 100) == key[: recognisable_end(key, 0, 512)] + key[-100:]
    assert end_of(f"See {token}", 100) == token[:80] + token[-100:]
    assert end_of(f"{key}-----END PRIVATE KEY-----\nafter it", 5) == "er it"

"""Feedback records as fields of a stream entry."""

import json
from typing import Any

import pytest
from bem_fleet.feedback.record import MAX_TEXT_CHARS, FeedbackRecord, parse_record, user_of
from fleet.errors import InvalidArgumentError
from hypothesis import given
from hypothesis import strategies as st

from tests.support.feedback import record, user

TEXTS = st.text(max_size=40)


@given(TEXTS, TEXTS, st.lists(TEXTS, max_size=3), st.booleans())
def test_body_and_record_are_inverse(
    correction: str, edit: str, tags: list[str], consent: bool
) -> None:
    """What is stored is read as it was, whatever the texts are."""
    texts: dict[str, Any] = {"correction": correction, "edit": edit, "user": user(1)}
    kept = texts if consent else {}
    one = FeedbackRecord("c", "r", 5, consent, tags=tuple(tags), redacted=("URL", "IP"), **kept)

    assert parse_record(one.to_json().encode()) == one


def body(**change: Any) -> bytes:
    """Return a body with some fields changed."""
    return json.dumps({**json.loads(record(1).to_json()), **change}).encode()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rating": "maria"}, "rating"),
        ({"rating": 1}, "rating"),
        ({"consent": "maria"}, "consent"),
        ({"received_unix_ms": -1}, "received_unix_ms"),
        ({"received_unix_ms": True}, "received_unix_ms"),
        ({"user": "maria"}, "user"),
        ({"session": "maria"}, "session"),
        ({"tags": "maria"}, "tags"),
        ({"tags": ["maria", 1]}, "tags"),
        ({"tags": ["maria"] * 65}, "tags"),
        ({"edit": "x" * (MAX_TEXT_CHARS + 1)}, "edit"),
        ({"edit": None}, "edit"),
        ({"consent": False}, "user"),
        ({"consent": False, "user": ""}, "correction"),
        ({"maria": "x"}, "record"),
    ],
)
def test_bad_field_is_named_and_not_repeated(change: dict[str, Any], named: str) -> None:
    """A wrong field is named without its content, which may be anyone's text."""
    with pytest.raises(InvalidArgumentError, match=f"^{named}: ") as refused:
        parse_record(body(**change))

    assert "maria" not in str(refused.value)


@pytest.mark.parametrize("text", [b"", b"maria", b"[1]", b"\xff", b"[" * 100_000])
def test_what_is_no_object_is_named(text: bytes) -> None:
    """Any bytes are a record or a named error, and name no user."""
    with pytest.raises(InvalidArgumentError, match=r"^record: is no"):
        parse_record(text)

    assert user_of(text) == ""


def test_missing_field_is_named_and_the_user_found() -> None:
    """A body of another version is refused, but its user can have it forgotten."""
    entry = json.loads(record(1).to_json())
    del entry["rating"]
    other = json.dumps(entry).encode()

    with pytest.raises(InvalidArgumentError, match=r"^rating: is missing"):
        parse_record(other)
    assert user_of(other) == user(1)
    assert user_of(body(user="maria")) == user_of(body(user=5)) == ""


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"edit": "a", "rating": "up"}, "edit"),
        ({"correction": "a", "comment": "b"}, "correction"),
        ({"rating": "down", "comment": "b"}, "rating"),
        ({"comment": "b", "tags": ("t",)}, "comment"),
        ({"tags": ("t",)}, "tags"),
    ],
)
def test_kind_is_the_most_telling_part(fields: dict[str, Any], kind: str) -> None:
    """What a learner does with a record depends on its most telling part."""
    assert FeedbackRecord("c", **fields).kind == kind


def test_digest_ignores_only_when_and_by_which_request() -> None:
    """The same feedback sent again has the same digest; another user's or text's has not."""
    first = record(1)
    again = record(1, request_id="r2", received_unix_ms=99)

    assert first.content_digest() == again.content_digest()
    assert first.content_digest() != record(1, user=user(9)).content_digest()
    assert first.content_digest() != record(1, tags=("t",)).content_digest()

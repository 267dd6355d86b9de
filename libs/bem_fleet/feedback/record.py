"""Feedback records: what a person wrote, and what of it is stored.

``Feedback`` is raw. Only ``scrubber.FeedbackScrubber`` makes a ``FeedbackRecord`` of it, and only
records are stored.
"""

import hashlib
import json
import re
from dataclasses import dataclass, fields
from typing import Any

from fleet.errors import InvalidArgumentError

MAX_TEXT_CHARS = 65_536
"""Longest text of a record in characters; replacements of a scrub may lengthen a text."""

MAX_LABELS = 64
"""Most tags, and most types of what was removed."""

MAX_ID_CHARS = 1024
RATINGS = ("", "up", "down")
USER = re.compile(r"[0-9a-f]{32}-[0-9a-f]{32}")
"""Pseudonym of a user: that of the API key, a hyphen, and that of key and end user together."""

_DIGEST = re.compile(r"[0-9a-f]{0,64}")
_TEXTS = ("correction", "edit", "comment", "prompt", "answer")
_IDS = ("completion_id", "request_id", "session")
_COUNTS = ("received_unix_ms", "correction_chars", "edit_chars", "comment_chars")
_MAX_COUNT = 10**15
# A repeated request has another id and time.
_NOT_CONTENT = ("request_id", "received_unix_ms")


@dataclass(frozen=True)
class Feedback:
    """Feedback as a client wrote it.

    Attributes:
        completion_id: Id of the answer.
        rating: ``up`` or ``down``; None for none.
        correction: What the right answer is.
        edit: The answer as the person changed it.
        comment: Free text.
        prompt: What was asked; a learner needs it.
        answer: What was answered.
        tags: Short labels.
        session: Session of the request.
        user: End user of the client; None if the key is one person's.
        consent: Whether texts may be kept and learned from.
    """

    completion_id: str
    rating: str | None = None
    correction: str | None = None
    edit: str | None = None
    comment: str | None = None
    prompt: str | None = None
    answer: str | None = None
    tags: tuple[str, ...] = ()
    session: str | None = None
    user: str | None = None
    consent: bool = False


@dataclass(frozen=True)
class FeedbackRecord:
    """Scrubbed feedback.

    Attributes:
        completion_id: Id of the answer.
        request_id: Id of the request that brought the feedback.
        received_unix_ms: Time of arrival, in milliseconds since the epoch.
        consent: Whether texts may be kept and learned from.
        user: Pseudonym of the user (``USER``); empty without consent.
        rating: ``up``, ``down`` or empty.
        correction: What the right answer is; empty without consent, as all texts.
        edit: The answer as the person changed it.
        comment: Free text.
        prompt: What was asked.
        answer: What was answered.
        tags: Short labels, also without consent.
        session: Keyed hash of the session; empty without consent.
        correction_chars: Length of the correction as written, in characters.
        edit_chars: Length of the edit as written, in characters.
        comment_chars: Length of the comment as written, in characters.
        redacted: Types of what was removed, such as ``EMAIL_ADDRESS``.
    """

    completion_id: str
    request_id: str = ""
    received_unix_ms: int = 0
    consent: bool = False
    user: str = ""
    rating: str = ""
    correction: str = ""
    edit: str = ""
    comment: str = ""
    prompt: str = ""
    answer: str = ""
    tags: tuple[str, ...] = ()
    session: str = ""
    correction_chars: int = 0
    edit_chars: int = 0
    comment_chars: int = 0
    redacted: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """Most telling part: ``edit``, ``correction``, ``rating``, ``comment`` or ``tags``."""
        for name in ("edit", "correction", "rating", "comment"):
            if getattr(self, name):
                return name
        return "tags"

    def to_json(self) -> str:
        """Return the body of an entry, which ``parse_record`` reads."""
        return json.dumps(vars(self), ensure_ascii=False)

    def content_digest(self) -> str:
        """Return a digest of user and content, the same for repeated feedback; 32 hex digits."""
        kept = {k: v for k, v in vars(self).items() if k not in _NOT_CONTENT}
        text = json.dumps(kept, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def parse_record(body: bytes) -> FeedbackRecord:
    """Return the record of an entry's body.

    Raises:
        InvalidArgumentError: The body is no record, or a field is missing, unknown, malformed or
            too long. The error repeats nothing of the body, because it is kept as a reason.
    """
    entry = _object(body)
    expected = {one.name for one in fields(FeedbackRecord)}
    if wrong := expected ^ entry.keys():
        missing = sorted(wrong & expected)
        # Names of unknown fields are not repeated: they may be anyone's text.
        name, problem = (missing[0], "is missing") if missing else ("record", "has unknown fields")
        raise InvalidArgumentError(name, f"{problem}; a record has {len(expected)} fields")
    for name in (*_TEXTS, *_IDS, "user", "rating"):
        _check_text(entry, name, MAX_TEXT_CHARS if name in _TEXTS else MAX_ID_CHARS)
    for name in _COUNTS:
        if type(entry[name]) is not int or not 0 <= entry[name] < _MAX_COUNT:
            raise InvalidArgumentError(name, f"is no integer from 0 to {_MAX_COUNT - 1}")
    if not isinstance(entry["consent"], bool):
        raise InvalidArgumentError("consent", "is neither true nor false")
    if entry["rating"] not in RATINGS:
        raise InvalidArgumentError("rating", f"is none of {', '.join(map(repr, RATINGS))}")
    _check_people(entry)
    labels = {name: _labels(entry, name) for name in ("tags", "redacted")}
    return FeedbackRecord(**{**entry, **labels})


def user_of(body: bytes) -> str:
    """Return the user whom a body names, whatever else it holds; empty for none."""
    try:
        user = _object(body).get("user")
    except InvalidArgumentError:
        return ""
    return user if isinstance(user, str) and USER.fullmatch(user) else ""


def _object(body: bytes) -> dict[str, Any]:
    try:
        entry = json.loads(body)
    except (ValueError, RecursionError) as err:
        raise InvalidArgumentError("record", "is not JSON in UTF-8") from err
    if not isinstance(entry, dict):
        raise InvalidArgumentError("record", "is no JSON object")
    return entry


def _check_text(entry: dict[str, Any], name: str, limit: int) -> None:
    if not isinstance(entry[name], str):
        raise InvalidArgumentError(name, "is no text")
    if len(entry[name]) > limit:
        raise InvalidArgumentError(name, f"has {len(entry[name])} characters; at most {limit}")


def _check_people(entry: dict[str, Any]) -> None:
    """Check that a consenting user is named, and that nothing of another one is kept."""
    if entry["consent"] and not USER.fullmatch(entry["user"]):
        raise InvalidArgumentError("user", "is no pseudonym: two keyed hashes of 32 digits")
    if not _DIGEST.fullmatch(entry["session"]):
        raise InvalidArgumentError("session", "is no keyed hash; at most 64 hexadecimal digits")
    for name in () if entry["consent"] else ("user", "session", *_TEXTS):
        if entry[name]:
            raise InvalidArgumentError(name, "is kept without consent; it has to be empty")


def _labels(entry: dict[str, Any], name: str) -> tuple[str, ...]:
    labels = entry[name]
    if not isinstance(labels, list) or not all(isinstance(one, str) for one in labels):
        raise InvalidArgumentError(name, "is no list of texts")
    if len(labels) > MAX_LABELS or any(len(one) > MAX_ID_CHARS for one in labels):
        raise InvalidArgumentError(
            name, f"has {len(labels)} texts; at most {MAX_LABELS} of {MAX_ID_CHARS} characters"
        )
    return tuple(labels)

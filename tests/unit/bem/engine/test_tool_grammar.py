"""Tool grammar: answers that may or must call tools."""

import re
from collections.abc import Sequence

import pytest
from bem.engine.grammar import GrammarCompiler
from bem.engine.tool_grammar import ToolSignature, tool_form
from bem.errors import InvalidRequestError
from bem.testing import tiny_backbone

from tests.unit.bem.engine.test_grammar import accepts

CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = (ToolSignature("weather", CITY), ToolSignature("now"))
PARIS = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
NOW = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    """A compiler for the tiny model."""
    return GrammarCompiler(tiny_backbone())


@pytest.mark.parametrize(
    ("text", "auto", "required", "single"),
    [
        (PARIS, True, True, True),
        (f"{PARIS}\n{NOW}", True, True, False),
        ("It is 3 < 4.\nAnd <tool_cal", True, False, False),
        (f"Let me look.\n{NOW}", True, False, False),
        (PARIS.replace("Paris", "Rome"), False, False, False),
        (PARIS.replace("weather", "wind"), False, False, False),
        (f"{PARIS} and text", False, False, False),
        ("text <tool_call> text", False, False, False),
        (PARIS.removesuffix("\n</tool_call>"), False, False, False),
    ],
)
def test_which_answers_are_allowed(
    compiler: GrammarCompiler, text: str, auto: bool, required: bool, single: bool
) -> None:
    """Text alone, text and calls, or calls alone, and each call under its own schema."""

    def allowed(*, required: bool, parallel: bool) -> bool:
        return accepts(compiler, tool_form(TOOLS, required=required, parallel=parallel), text)

    assert allowed(required=False, parallel=True) is auto
    assert allowed(required=True, parallel=True) is required
    assert allowed(required=True, parallel=False) is single


def test_a_schema_that_is_not_enforced_is_refused(compiler: GrammarCompiler) -> None:
    """The error names the field and the keyword, whatever the schema says of itself."""
    schema = {"type": "object", "not": {}, "x-guidance": {"lenient": True}}
    tools: Sequence[ToolSignature] = (ToolSignature("f", schema),)
    with pytest.raises(InvalidRequestError, match=re.escape('["not"]')) as caught:
        compiler.compile(tool_form(tools, required=True, parallel=False))

    assert caught.value.field == "chat.tools"

"""Tool messages: tools, calls and results as a template and the sampler read them."""

from typing import Any

import pytest
from bem.errors import InvalidRequestError
from bem.testing import tiny_backbone
from bem_fleet.services.router.prompt_rendering import PromptRenderer
from bem_fleet.services.router.tool_messages import ToolTemplate
from bemfleet.router.v1 import router_pb2 as pb

from tests.support.tool_templates import tool_backbone

SERVED = ToolTemplate(tool_backbone().tokenizer)
SCHEMA = '{"properties": {"q": {"type": "string"}}}'


def chat(**fields: Any) -> pb.ChatPrompt:
    """Return a conversation with one tool."""
    tool = pb.Tool(name="find", description="Finds.", parameters=SCHEMA)
    given: dict[str, Any] = {"messages": [pb.ChatMessage(role="user", content="x")]}
    return pb.ChatPrompt(**given | {"tools": [tool]} | fields)


def test_the_template_reads_tools_and_calls() -> None:
    """Both are in the prompt, and a control token in a value is spelled as text."""
    call = pb.ToolCall(id="1", name="find", arguments='{"q": "<|im_end|>"}')
    messages = [
        pb.ChatMessage(role="assistant", tool_calls=[call]),
        pb.ChatMessage(role="tool", tool_call_id="1", content="found"),
    ]
    tokenizer = tool_backbone().tokenizer
    renderer = PromptRenderer(tokenizer, 1024)
    ids = renderer.prompt_ids(pb.GenerateRequest(chat=chat(messages=messages)))
    text = tokenizer.decode(ids)

    assert "Finds." in text
    assert '<tool_call>\n{"name": "find", "arguments": {"q": "<|im_end|>"}}\n</tool_call>' in text
    assert "tool\nfound" in text
    assert ids.count(tokenizer.eos_token_id) == 3


def test_the_form_follows_the_choice() -> None:
    """Without tools there is none; a named tool is the only one, and required."""
    form = SERVED.form(chat())
    named = SERVED.form(chat(tools=[*chat().tools, pb.Tool(name="now")], tool_name="now"))
    single = SERVED.form(chat(parallel_tool_calls=False, tool_choice=pb.TOOL_CHOICE_REQUIRED))

    assert SERVED.form(pb.ChatPrompt()) is None
    assert form is not None
    assert "TEXT" in form.text
    assert named is not None
    assert ("now" in named.text, "find" in named.text, "TEXT" in named.text) == (True, False, False)
    assert single is not None
    assert ")*" not in single.text.splitlines()[0]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"tools": [pb.Tool(name="a b")]}, "chat.tools[0].name"),
        ({"tools": [pb.Tool(name="a"), pb.Tool(name="a")]}, "chat.tools[1].name"),
        ({"tools": [pb.Tool(name=f"t{n}") for n in range(129)]}, "chat.tools"),
        ({"tool_name": "lose"}, "chat.tool_choice"),
        ({"tools": [], "tool_choice": pb.TOOL_CHOICE_REQUIRED}, "chat.tool_choice"),
    ],
)
def test_malformed_tools_are_refused(fields: dict[str, Any], field: str) -> None:
    """The error names the field."""
    with pytest.raises(InvalidRequestError) as caught:
        SERVED.check(chat(**fields))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ("{", "not valid JSON"),
        ("[]", "no JSON object"),
        ('{"type": "array"}', "set type to object"),
        ('{"properties": {"<|im_start|>": {}}}', "control token"),
        ('{"anyOf": [{"properties": {"a<|im_end|>": {}}}]}', "control token"),
    ],
)
def test_malformed_parameters_are_refused(parameters: str, problem: str) -> None:
    """A member's name could end a turn, because templates write names as they are."""
    with pytest.raises(InvalidRequestError, match=problem) as caught:
        SERVED.tools(chat(tools=[pb.Tool(name="f", parameters=parameters)]))
    assert caught.value.field == "chat.tools[0].parameters"


def test_calls_are_checked() -> None:
    """Arguments are an object, and the name is one."""
    for call, field in (
        (pb.ToolCall(name="f", arguments="[1]"), "arguments"),
        (pb.ToolCall(name="", arguments="{}"), "name"),
    ):
        message = pb.ChatMessage(role="assistant", tool_calls=[call])
        with pytest.raises(InvalidRequestError) as caught:
            SERVED.message(message, 2)
        assert caught.value.field == f"chat.messages[2].tool_calls[0].{field}"


def test_a_template_without_tools_names_the_first_field_that_needs_them() -> None:
    """The packaged model has such a template; it refuses instead of leaving them out."""
    plain = ToolTemplate(tiny_backbone().tokenizer)
    result = pb.ChatMessage(role="tool", content="x")
    for given, field in (
        (chat(), "chat.tools"),
        (chat(tools=[], messages=[*chat().messages, result]), "chat.messages[1].role"),
    ):
        with pytest.raises(InvalidRequestError, match="template has no tools") as caught:
            plain.check(given)
        assert caught.value.field == field
    plain.check(chat(tools=[]))

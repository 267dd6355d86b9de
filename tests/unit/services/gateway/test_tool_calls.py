"""Tool calls: read from the text of an answer, however it is cut into deltas."""

import json
from typing import Any

import pytest
from bem_fleet.services.gateway.tool_calls import ToolCallReader, read_message

CALLS = (
    'Let me see.\n<tool_call>\n{"name": "find", "arguments": {"q": "a}\\n<b"}}\n</tool_call>'
    '\n<tool_call>\n{"name": "stop-1", "arguments": {}}\n</tool_call>'
)
WANTED = [("find", {"q": "a}\n<b"}), ("stop-1", {})]


def joined(deltas: list[dict[str, Any]]) -> tuple[str, list[tuple[str, Any]]]:
    """Return the text and the calls that a client puts together from deltas."""
    content, calls = "", dict[int, dict[str, str]]()
    for delta in deltas:
        content += delta.get("content", "")
        for part in delta.get("tool_calls", ()):
            call = calls.setdefault(part["index"], {"name": "", "arguments": ""})
            call["name"] += part["function"].get("name", "")
            call["arguments"] += part["function"]["arguments"]
    return content, [(one["name"], json.loads(one["arguments"])) for one in calls.values()]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_calls_are_the_same_in_any_deltas(size: int) -> None:
    """Names come whole, and each call has an id of its own."""
    reader, pieces = ToolCallReader(), [CALLS[i : i + size] for i in range(0, len(CALLS), size)]
    deltas = [reader.read(one, ended=False) for one in pieces] + [reader.read("", ended=True)]
    begun = [part for delta in deltas for part in delta.get("tool_calls", ()) if "id" in part]

    assert joined(deltas) == ("Let me see.\n", WANTED)
    assert [part["function"]["name"] for part in begun] == ["find", "stop-1"]
    assert len({part["id"] for part in begun}) == 2


def test_a_whole_answer_is_a_message() -> None:
    """Without text the content is null, without calls there are none."""
    message = read_message(CALLS.removeprefix("Let me see.\n"))
    calls = [one["function"] for one in message["tool_calls"]]

    assert message["content"] is None
    assert [(one["name"], json.loads(one["arguments"])) for one in calls] == WANTED
    assert read_message("a < b") == {"content": "a < b"}


def test_text_waits_only_while_it_may_begin_a_call() -> None:
    """A beginning that comes to nothing is text."""
    reader = ToolCallReader()

    assert reader.read("a <tool", ended=False) == {"content": "a "}
    assert reader.read("box>", ended=False) == {"content": "<toolbox>"}
    assert reader.read(" <", ended=False) == {"content": " "}
    assert reader.read("", ended=True) == {"content": "<"}


def test_a_cut_call_keeps_its_arguments_so_far() -> None:
    """The caller sees the reason length and what there is."""
    message = read_message('<tool_call>\n{"name": "find", "arguments": {"q": "a')

    assert message["tool_calls"][0]["function"] == {"name": "find", "arguments": '{"q": "a'}

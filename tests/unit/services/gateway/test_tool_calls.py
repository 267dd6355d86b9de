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


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_call_that_is_cut_anywhere_never_shows_a_mark(size: int) -> None:
    """Names are whole, complete arguments are JSON, and marks are neither text nor arguments."""
    for end in range(len(CALLS)):
        cut = CALLS[:end]
        reader, pieces = ToolCallReader(), [cut[i : i + size] for i in range(0, end, size)]
        deltas = [reader.read(one, ended=False) for one in pieces] + [reader.read("", ended=True)]
        content = "".join(delta.get("content", "") for delta in deltas)
        written: dict[int, str] = {}
        for part in (part for delta in deltas for part in delta.get("tool_calls", ())):
            written[part["index"]] = written.get(part["index"], "") + part["function"]["arguments"]
        # Until the tag is whole, its beginning may still be text.
        assert content in {"Let me see.\n"[:end], cut} or written
        assert not written or content == "Let me see.\n"
        for index, arguments in written.items():
            whole = json.dumps(WANTED[index][1])
            assert whole.startswith(arguments), (cut, arguments)
            assert reader.is_open is (arguments != whole) or index + 1 < len(written)
        message = read_message(cut)
        assert (message["content"] or "") == content
        assert [one["function"]["arguments"] for one in message.get("tool_calls", ())] == list(
            written.values()
        )


def test_a_required_call_that_is_cut_before_its_name_has_no_text() -> None:
    """The beginning of a mark is not content where the answer is calls alone."""
    for cut in ("<", "<tool_c", '<tool_call>\n{"na', '<tool_call>\n{"name": "fi'):
        assert read_message(cut, required=True) == {"content": None}
    assert read_message("<tool_c") == {"content": "<tool_c"}
    assert read_message("<tool_call>\n{") == {"content": None}

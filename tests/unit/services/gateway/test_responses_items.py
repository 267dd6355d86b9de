"""Output items of the Responses API: one answer cut anywhere gives the same items."""

from typing import Any

import pytest
from bem_fleet.services.gateway.responses_items import OutputItems

ANSWER = (
    'Well.<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>\n'
    '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>'
)


def read(pieces: list[str]) -> tuple[OutputItems, list[tuple[str, dict[str, Any]]]]:
    """Return the items of an answer and their events."""
    items = OutputItems(reads_calls=True)
    events: list[tuple[str, dict[str, Any]]] = []
    for place, piece in enumerate(pieces):
        events += items.add(piece, [], ended=place == len(pieces) - 1)
    return items, [*events, *items.close("completed")]


@pytest.mark.parametrize("size", [1, 2, 7, 500])
def test_items_do_not_depend_on_the_pieces(size: int) -> None:
    """A message and two calls, each opened and closed before the next one."""
    items, events = read([ANSWER[n : n + size] for n in range(0, len(ANSWER), size)])
    found = items.objects("completed")

    assert [one["type"] for one in found] == ["message", "function_call", "function_call"]
    assert items.text == "Well."
    assert [one["arguments"] for one in found[1:]] == ['{"a": 1}', "{}"]
    ends = [kind for kind, _ in events if "output_item" in kind]
    assert ends == ["response.output_item.added", "response.output_item.done"] * 3
    joined = "".join(
        members["delta"]
        for kind, members in events
        if kind == "response.function_call_arguments.delta" and members["output_index"] == 1
    )
    assert joined == '{"a": 1}'
    assert [call["function"]["name"] for call in items.turn()["tool_calls"]] == ["f", "g"]


def test_text_stays_text_without_tools() -> None:
    """What looks like a call is none where no function was offered."""
    items = OutputItems(reads_calls=False)
    list(items.add(ANSWER, [], ended=True))

    assert [one["type"] for one in items.objects("completed")] == ["message"]
    assert items.turn() == {"role": "assistant", "content": ANSWER}


def test_an_empty_answer_is_an_empty_message() -> None:
    """The response has an item in any case, streamed or not."""
    items = OutputItems(reads_calls=True)
    (empty,) = items.objects("completed")
    kinds = [kind for kind, _ in items.close("completed")]

    assert empty["content"][0]["text"] == ""
    assert kinds[0] == "response.output_item.added"
    assert kinds[-1] == "response.output_item.done"


def test_a_cut_call_is_incomplete_and_its_arguments_are_not_done() -> None:
    """A call whose arguments are whole is complete, although the answer is cut behind them."""
    for text, status, done in (
        ('<tool_call>\n{"name": "f", "arguments": {"a": ', "incomplete", 0),
        ('<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</to', "completed", 1),
        ('<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n<tool', "completed", 1),
    ):
        items = OutputItems(reads_calls=True)
        events = [*items.add(text, [], ended=True), *items.close("incomplete")]
        kinds = [kind for kind, _ in events]

        (item,) = items.objects("incomplete")
        assert item["status"] == status
        assert kinds.count("response.function_call_arguments.done") == done
        assert events[-1][1]["item"]["status"] == status

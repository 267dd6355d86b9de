"""Instruction files: both forms, and problems named by line."""

import json
from pathlib import Path
from typing import Any

import pytest
from bem_fleet.data.instruction_files import (
    InstructionFileError,
    data_digest,
    read_instructions,
    refuse_shared,
)

CHAT = {
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
    ]
}
PAIR = {"prompt": "q", "response": "a", "source": "ignored"}


def write(folder: Path, *lines: Any, name: str = "train.jsonl") -> Path:
    """Write lines; texts are written as they are."""
    path = folder / name
    path.write_text(
        "".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in lines)
    )
    return path


def test_both_forms_are_chats(tmp_path: Path) -> None:
    """Empty lines are skipped and counted."""
    chat, pair, old = read_instructions(
        write(tmp_path, CHAT, "", PAIR, {"prompt": "q2", "completion": "a2"})
    )

    assert (chat.line, pair.line, old.line) == (1, 3, 4)
    assert chat.chat() == CHAT["messages"][:2]
    assert (pair.chat(), pair.reply) == ([{"role": "user", "content": "q"}], "a")
    assert old.reply == "a2"
    assert data_digest([chat, pair]) != data_digest([pair, chat])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "is not JSON"),
        ("[1]", "is no JSON object"),
        ({"prompt": "q"}, "completion: is missing"),
        ({"prompt": 1, "response": "a"}, "prompt: is no text"),
        ({"messages": []}, "messages: is no list"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "messages[0].role: 'bot' is unknown"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content: is no text"),
        ({"messages": CHAT["messages"][:2]}, "messages[1].role: 'user' ends the conversation"),
        ({"messages": CHAT["messages"][2:]}, "has only a reply"),
        ({"prompt": "q", "response": " "}, "the reply is empty"),
        ('{"prompt": "\\ud800", "response": "a"}', "lone surrogate"),
    ],
)
def test_problems_are_named_by_line(tmp_path: Path, line: Any, words: str) -> None:
    """All of them at once, so that a file is corrected once."""
    path = write(tmp_path, PAIR, line, CHAT, line)
    with pytest.raises(InstructionFileError) as caught:
        read_instructions(path)
    first, second = str(caught.value).splitlines()

    assert first.startswith("train.jsonl:2: ")
    assert second.startswith("train.jsonl:4: ")
    assert words in first


def test_many_problems_are_counted(tmp_path: Path) -> None:
    """The list ends with the number of the others."""
    with pytest.raises(InstructionFileError, match="and 30 more lines"):
        read_instructions(write(tmp_path, *["{"] * 50))


def test_files_without_instructions_are_refused(tmp_path: Path) -> None:
    """An empty file, and none."""
    with pytest.raises(InstructionFileError, match="has no line"):
        read_instructions(write(tmp_path, ""))
    with pytest.raises(InstructionFileError, match="No such file"):
        read_instructions(tmp_path / "none.jsonl")


def test_evaluation_items_must_be_new(tmp_path: Path) -> None:
    """A shared item is named with both lines, whatever its reply is."""
    train = read_instructions(write(tmp_path, CHAT, PAIR))
    held = read_instructions(
        write(tmp_path, {"prompt": "new", "response": "a"}, {"prompt": "q", "response": "b"})
    )
    refuse_shared(train, held[:1], "eval.jsonl")
    with pytest.raises(InstructionFileError, match=r"eval\.jsonl:2: .*line 2"):
        refuse_shared(train, held, "eval.jsonl")

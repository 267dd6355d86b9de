"""Instruction folders: what ``datasets`` saves, and files as repositories of datasets hold them."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from bem_fleet.data import instruction_folders
from bem_fleet.data.instruction_files import InstructionFileError
from bem_fleet.data.instruction_folders import read_data
from pyarrow.parquet import write_table

CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
PAIRS = [{"prompt": f"q{index}", "response": f"a{index}"} for index in range(5)]


def save_to_disk(folder: Path, rows: Sequence[dict[str, Any]], shards: int = 1) -> Path:
    """Write a folder as ``Dataset.save_to_disk`` does."""
    folder.mkdir(parents=True)
    names = [f"data-{shard:05}-of-{shards:05}.arrow" for shard in range(shards)]
    size = -(-len(rows) // shards)
    for shard, name in enumerate(names):
        table = pa.Table.from_pylist(list(rows[shard * size : (shard + 1) * size]))
        with (
            pa.OSFile(str(folder / name), "wb") as file,
            pa.ipc.new_stream(file, table.schema) as writer,
        ):
            writer.write_table(table)
    state = {"_data_files": [{"filename": name} for name in names], "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    return folder


def save_lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def prompts(path: Path) -> list[str]:
    """Return the user's texts of what is read."""
    return [one.messages[-1][1] for one in read_data(path)]


def test_saved_datasets_are_read_in_the_order_of_their_shards(tmp_path: Path) -> None:
    """Rows are numbered through; chats and pairs may be columns of one table, null where none."""
    wanted = [row["prompt"] for row in PAIRS]
    assert prompts(save_to_disk(tmp_path / "one", PAIRS)) == wanted
    assert prompts(save_to_disk(tmp_path / "two", PAIRS, shards=2)) == wanted

    mixed: list[dict[str, Any]] = [
        {"messages": CHAT, **dict.fromkeys(PAIRS[0])},
        {"messages": None, **PAIRS[0]},
    ]
    chat, pair = read_data(save_to_disk(tmp_path / "mixed", mixed))
    assert (chat.line, chat.messages, chat.reply) == (1, (("user", "q"),), "a")
    assert (pair.line, pair.messages, pair.reply) == (2, (("user", "q0"),), "a0")


def test_a_split_must_be_named_where_there_are_several(tmp_path: Path) -> None:
    """One split is read; of several the error names the folders."""
    for split, rows in (("train", PAIRS[:3]), ("test", PAIRS[3:])):
        save_to_disk(tmp_path / split, rows)
    named = tmp_path / "dataset_dict.json"
    named.write_text('{"splits": ["train"]}')
    assert prompts(tmp_path) == ["q0", "q1", "q2"]

    named.write_text('{"splits": ["train", "test"]}')
    with pytest.raises(InstructionFileError, match="splits train, test; name the folder of one"):
        read_data(tmp_path)
    assert prompts(tmp_path / "test") == ["q3", "q4"]


def test_folders_of_parquet_and_lines_are_read(tmp_path: Path) -> None:
    """Shards of one split are one dataset; a file is read alone."""
    for shard in range(2):
        path = tmp_path / "hub" / "data" / f"train-{shard:05}-of-00002.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_table(pa.Table.from_pylist(PAIRS[2 * shard :][:2]), path)
    assert prompts(tmp_path / "hub") == ["q0", "q1", "q2", "q3"]
    assert prompts(path) == ["q2", "q3"]

    lines = save_lines(tmp_path / "lines" / "train.jsonl", PAIRS)
    assert prompts(lines.parent) == prompts(lines) == [row["prompt"] for row in PAIRS]
    save_lines(lines.with_name("test.jsonl"), PAIRS)
    with pytest.raises(InstructionFileError, match="splits test, train; name the file of one"):
        read_data(lines.parent)


def test_rows_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    """Each row with its number and what is wrong."""
    rows: list[dict[str, Any]] = [
        PAIRS[0],
        {"prompt": "q", "response": " "},
        {"prompt": None, "response": "a"},
    ]
    with pytest.raises(InstructionFileError) as found:
        read_data(save_to_disk(tmp_path / "bad", rows))
    assert str(found.value).splitlines() == [
        "bad: row 2: the reply is empty; write the text to learn",
        "bad: row 3: prompt: is missing; write messages, or prompt and response",
    ]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "has neither of Parquet and JSON Lines"),
        ({"a.parquet": "", "b.jsonl": ""}, "has both of Parquet and JSON Lines"),
        ({"train.jsonl": ""}, "has no line"),
        ({"train.parquet": "no table"}, "train.parquet: cannot be read"),
        ({"state.json": "{"}, "state.json: cannot be read"),
        ({"state.json": "[]"}, "is no JSON object"),
        ({"state.json": '{"_data_files": ["x"]}'}, "_data_files: is no list of file names"),
        ({"state.json": '{"_data_files": [{"filename": "gone.arrow"}]}'}, "gone.arrow: cannot be"),
        (
            {"state.json": '{"_data_files": [], "_indices_data_files": [{"filename": "i"}]}'},
            "flatten_indices",
        ),
        ({"dataset_dict.json": '{"splits": 3}'}, "splits: is no list of names"),
        ({"dataset_dict.json": '{"splits": []}'}, "has the splits none"),
    ],
)
def test_other_folders_are_refused(tmp_path: Path, files: dict[str, str], words: str) -> None:
    """The error names the file and what is wrong."""
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InstructionFileError, match=re.escape(words)):
        read_data(tmp_path)


def test_a_state_does_not_lead_out_of_its_folder(tmp_path: Path) -> None:
    """Directories of a file name are dropped."""
    save_to_disk(tmp_path / "other", PAIRS)
    folder = tmp_path / "data"
    folder.mkdir()
    outside = [{"filename": "../other/data-00000-of-00001.arrow"}]
    (folder / "state.json").write_text(json.dumps({"_data_files": outside}))
    with pytest.raises(InstructionFileError, match=r"/data/data-00000-of-00001\.arrow: cannot be"):
        read_data(folder)


def test_tables_without_pyarrow_name_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JSON Lines need nothing."""
    folder = save_to_disk(tmp_path / "one", PAIRS)
    lines = save_lines(tmp_path / "train.jsonl", PAIRS)
    monkeypatch.setattr(instruction_folders, "pa", None)
    with pytest.raises(InstructionFileError, match=r"install bem-fleet\[datasets\]"):
        read_data(folder)
    assert len(read_data(lines)) == 5

"""Instruction folders: datasets as Hugging Face's ``datasets`` saves them, or folders of files.

Three forms are read, without the ``datasets`` library:

- a folder of ``Dataset.save_to_disk``: ``state.json`` names its Arrow files;
- a folder of ``DatasetDict.save_to_disk``: one such folder a split, of which one must be named;
- a folder of Parquet or JSON Lines files, as repositories of datasets hold them: ``train.jsonl`` or
  ``data/train-00000-of-00002.parquet``. All files must be of one split.

Arrow and Parquet need pyarrow, the extra ``datasets``. A row has the fields of a line of an
instruction file; a field that is null is none.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile
except ImportError:
    pa = None  # the extra ``datasets``

from bem_fleet.data.instruction_files import (
    Instruction,
    InstructionError,
    InstructionFileError,
    parse_instruction,
    read_instructions,
    usable,
)

_STATE, _SPLITS = "state.json", "dataset_dict.json"
_PARQUET, _LINES = ".parquet", (".jsonl", ".ndjson")
# ``train-00000-of-00002.parquet`` and ``train.parquet`` are of the split ``train``.
_SHARD = re.compile(r"-\d+-of-\d+$")


def read_data(path: Path) -> list[Instruction]:
    """Return the instructions of a JSON Lines file, a Parquet file or a folder, in order.

    Raises:
        InstructionFileError: The data cannot be read, have no instruction or rows that cannot be
            used, are of several splits, or need pyarrow, which is missing.
    """
    if path.is_dir():
        return _read_folder(path)
    if path.suffix == _PARQUET:
        return _read_tables([path], path.name)
    return read_instructions(path)


def _read_folder(folder: Path) -> list[Instruction]:
    if (folder / _SPLITS).is_file():
        return _read_folder(_only_split(folder))
    if (folder / _STATE).is_file():
        return _read_tables(_arrow_files(folder), folder.name)
    tables = sorted(folder.rglob(f"*{_PARQUET}"))
    lines = sorted(path for suffix in _LINES for path in folder.rglob(f"*{suffix}"))
    if bool(tables) == bool(lines):
        found = "both" if tables else "neither"
        raise InstructionFileError(
            f"{folder}: has {found} of Parquet and JSON Lines files and no {_STATE} of datasets; "
            "name a folder with one of them, or a file"
        )
    splits = sorted({_SHARD.sub("", path.stem) for path in (*tables, *lines)})
    if len(splits) > 1:
        raise InstructionFileError(
            f"{folder}: has files of the splits {', '.join(splits)}; name the file of one"
        )
    if tables:
        return _read_tables(tables, folder.name)
    return [one for path in lines for one in read_instructions(path)]


def _only_split(folder: Path) -> Path:
    splits = _read_json(folder / _SPLITS).get("splits")
    if not isinstance(splits, list) or not all(isinstance(one, str) for one in splits):
        raise InstructionFileError(f"{folder / _SPLITS}: splits: is no list of names")
    if len(splits) != 1:
        raise InstructionFileError(
            f"{folder}: has the splits {', '.join(splits) or 'none'}; name the folder of one, such "
            f"as {folder / (splits or ['train'])[0]}"
        )
    return folder / Path(splits[0]).name


def _arrow_files(folder: Path) -> list[Path]:
    state = _read_json(folder / _STATE)
    files = state.get("_data_files")
    if not isinstance(files, list) or not all(
        isinstance(one, dict) and isinstance(one.get("filename"), str) for one in files
    ):
        raise InstructionFileError(f"{folder / _STATE}: _data_files: is no list of file names")
    if state.get("_indices_data_files"):
        raise InstructionFileError(
            f"{folder / _STATE}: _indices_data_files: rows are selected by a table of indices; "
            "save the dataset again after flatten_indices()"
        )
    # The name alone: a state must not lead out of its folder.
    return [folder / Path(one["filename"]).name for one in files]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as err:
        raise InstructionFileError(f"{path}: cannot be read: {err}") from err
    if not isinstance(value, dict):
        raise InstructionFileError(f"{path}: is no JSON object")
    return value


def _read_tables(paths: list[Path], name: str) -> list[Instruction]:
    found: list[Instruction] = []
    problems: list[str] = []
    number = 0
    for path in paths:
        for row in _rows(path):
            number += 1
            given = {key: value for key, value in row.items() if value is not None}
            try:
                found.append(parse_instruction(number, given))
            except InstructionError as err:
                problems.append(f"{name}: row {number}: {err}")
    return usable(found, problems, f"{name}: has no row")


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if pa is None:
        raise InstructionFileError(
            f"{path}: Arrow and Parquet need pyarrow; install bem-fleet[datasets], or export JSONL"
        )
    try:
        if path.suffix == _PARQUET:
            for batch in ParquetFile(path).iter_batches():
                yield from batch.to_pylist()
            return
        with pa.memory_map(str(path)) as source:
            for batch in pa.ipc.open_stream(source):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as err:
        raise InstructionFileError(f"{path}: cannot be read: {err}") from err

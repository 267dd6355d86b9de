"""A stage runs once, and goes on after a kill."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bem.errors import DataFormatError
from bem_fleet.data.stages import BLOCK_ROWS, Stage, StageOutput, run_stage


def unique(row: dict[str, int], seen: set[str]) -> StageOutput:
    """Keep the first row of each value."""
    mark = str(row["n"] % 700)
    if mark in seen:
        return StageOutput(reason="duplicate")
    seen.add(mark)
    return StageOutput(({"n": row["n"]},), dedup_key=mark)


STAGE = Stage("unique", "1", {"modulus": 700}, unique)


def rows(count: int = 1000) -> Iterator[dict[str, int]]:
    """Numbers."""
    yield from ({"n": n} for n in range(count))


def never() -> Iterator[dict[str, int]]:
    """Input that must not be read."""
    pytest.fail("read")
    yield {}


def test_rerun_reads_nothing(tmp_path: Path) -> None:
    """What is done is returned with the same hash; counts and reasons are kept."""
    first = run_stage(STAGE, rows(), "s", tmp_path)
    again = run_stage(STAGE, never(), "s", tmp_path)

    assert (first.read, first.rows, first.dropped) == (1000, 700, {"duplicate": 300})
    assert again.sha256 == first.sha256
    assert again.resumed == 1000
    assert [row["n"] for row in first.load()] == list(range(700))


def test_settings_version_and_source_make_another_artifact(tmp_path: Path) -> None:
    """Any of them changed, and the stage runs anew beside the old artifact."""
    first = run_stage(STAGE, rows(), "s", tmp_path)
    others = [
        run_stage(Stage("unique", "2", STAGE.settings, unique), rows(), "s", tmp_path),
        run_stage(Stage("unique", "1", {"modulus": 7}, unique), rows(), "s", tmp_path),
        run_stage(STAGE, rows(), "other", tmp_path),
    ]

    assert len({first.path, *(other.path for other in others)}) == 4
    assert all(other.resumed == 0 for other in others)


def test_changed_artifact_is_made_again(tmp_path: Path) -> None:
    """A file that does not have its stated hash is not used; a broken manifest is named."""
    first = run_stage(STAGE, rows(), "s", tmp_path)
    first.path.write_text("{}\n")
    again = run_stage(STAGE, rows(), "s", tmp_path)

    assert again.sha256 == first.sha256
    assert again.resumed == 0
    first.path.with_suffix(".json").write_text("{}")
    with pytest.raises(DataFormatError, match="remove it"):
        run_stage(STAGE, rows(), "s", tmp_path)


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.unit.bem_fleet.data.test_stages import STAGE, rows
from bem_fleet.data.stages import run_stage

def until_killed():
    for row in rows():
        if row["n"] == 900:
            os.kill(os.getpid(), signal.SIGKILL)
        yield row

run_stage(STAGE, until_killed(), "s", Path(sys.argv[1]))
"""


def test_killed_stage_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    """After kill -9 the whole blocks are kept, also what the stage remembered of them."""
    whole = run_stage(STAGE, rows(), "s", tmp_path / "whole")
    root = Path(__file__).resolve().parents[4]
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed")],
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root / 'libs'}:{root}"},
        check=False,
        capture_output=True,
    )
    part = next((tmp_path / "killed").glob("*.part"))
    with part.open("a") as file:
        file.write('{"rows": [')  # as a kill in the middle of a write leaves it
    resumed = run_stage(STAGE, rows(), "s", tmp_path / "killed")

    assert ended.returncode == -signal.SIGKILL
    assert resumed.resumed == 900 // BLOCK_ROWS * BLOCK_ROWS
    assert resumed.sha256 == whole.sha256
    assert resumed.dropped == whole.dropped
    assert not list((tmp_path / "killed").glob("*.part"))
    assert json.loads(resumed.path.with_suffix(".json").read_text())["read"] == 1000

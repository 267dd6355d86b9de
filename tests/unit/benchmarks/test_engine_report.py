"""Tests of the engine benchmark's report."""

import json
from pathlib import Path

from benchmarks.engine.__main__ import stored_parts


def test_parts_of_measures_that_are_gone_are_left_out(tmp_path: Path) -> None:
    """A measure that was renamed since the last report does not stop the next one."""
    path = tmp_path / "bench_engine.json"
    assert stored_parts(path) == {}
    path.write_text(json.dumps({"measures": {"gone": {}, "single": {"figures": {}}}}))

    assert stored_parts(path) == {"single": {"figures": {}}}

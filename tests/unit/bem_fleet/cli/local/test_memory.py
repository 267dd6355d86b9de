"""Proportional memory of process trees."""

import subprocess
import sys
from pathlib import Path

from bem_fleet.cli.local.memory import tree_pss_bytes


def fake_process(proc: Path, pid: int, kibibytes: int, children: str) -> None:
    """Write a process of a fake proc file system."""
    task = proc / str(pid) / "task" / str(pid)
    task.mkdir(parents=True)
    (task / "children").write_text(children)
    (proc / str(pid) / "smaps_rollup").write_text(
        f"0-f ---p 0 00:00 0 [rollup]\nRss: 999 kB\nPss:  {kibibytes} kB\nPss_Anon: 7 kB\n"
    )


def test_pss_is_summed_over_the_tree(tmp_path: Path) -> None:
    """A process, its child and its grandchild count; one that has gone does not."""
    fake_process(tmp_path, 1, 100, "2 9 ")
    fake_process(tmp_path, 2, 10, "3 ")
    fake_process(tmp_path, 3, 1, "")

    assert tree_pss_bytes(1, tmp_path) == 111 * 1024
    assert tree_pss_bytes(9, tmp_path) is None
    assert tree_pss_bytes(0, tmp_path) is None


def test_real_process_has_memory() -> None:
    """The kernel's own files are read."""
    command = [sys.executable, "-c", "print(flush=True); input()"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        assert process.stdout
        process.stdout.readline()  # the interpreter runs
        found = tree_pss_bytes(process.pid)
        process.communicate(b"\n")

    assert found is not None
    assert found > 100_000

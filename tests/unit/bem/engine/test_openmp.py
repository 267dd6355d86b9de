"""Tests of the release of OpenMP thread pools."""

import subprocess
import sys
from pathlib import Path

import pytest

TASKS = Path("/proc/self/task")
# In a process of its own: threads of other tests end and start at any time, and only the threads
# of this one pool may change between the counts.
PROGRAM = """
from pathlib import Path
import torch
from bem.engine.openmp import release_openmp_threads

def threads():
    return len(list(Path("/proc/self/task").iterdir()))

torch.set_num_threads(3)
release_openmp_threads()
before = threads()
expected = torch.ones(2**20).exp().sum()
during = threads()
release_openmp_threads()
after = threads()
assert during >= before + 2, (before, during)
assert after == before, (before, during, after)
assert torch.equal(torch.ones(2**20).exp().sum(), expected)
"""


def test_the_calling_threads_pool_ends() -> None:
    """The threads that a large product started end, and the next product works as before."""
    if not TASKS.exists():
        pytest.skip("threads are counted in /proc, which only Linux has")

    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

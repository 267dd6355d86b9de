"""Tests of OpenMP thread pools: their release, and how long their threads spin."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from bem import SPIN_COUNT

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


@pytest.mark.parametrize(
    ("module", "given", "expected"),
    [
        ("bem_fleet.services.router.build", {}, SPIN_COUNT),
        ("bem_fleet.serving", {}, SPIN_COUNT),
        ("bem.engine.native.build", {"GOMP_SPINCOUNT": "77"}, 77),
        ("bem.engine.native.build", {"OMP_WAIT_POLICY": "passive"}, 0),
    ],
)
def test_threads_spin_briefly_however_a_program_starts(
    module: str, given: dict[str, str], expected: int
) -> None:
    """The runtime reads the count that the package sets, unless the environment sets one."""
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {key: value for key, value in os.environ.items() if key not in names}
    done = subprocess.run(
        [sys.executable, "-c", f"import {module}"],
        env=environment | given | {"OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
    )
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("torch uses another OpenMP runtime")

    assert f"GOMP_SPINCOUNT = '{expected}'" in done.stderr

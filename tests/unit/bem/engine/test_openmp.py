"""OpenMP's threads are given back."""

from pathlib import Path

import pytest
import torch
from bem.engine.openmp import release_openmp_threads

TASKS = Path("/proc/self/task")


def test_the_calling_threads_pool_ends() -> None:
    """What a large product started is gone, and the next product works as before."""
    if not TASKS.exists() or torch.get_num_threads() < 2:
        pytest.skip("needs Linux and two threads")
    release_openmp_threads()
    few = len(list(TASKS.iterdir()))
    product = torch.ones(2**20).exp().sum()
    many = len(list(TASKS.iterdir()))
    release_openmp_threads()

    assert many > few
    assert len(list(TASKS.iterdir())) == few
    assert torch.equal(torch.ones(2**20).exp().sum(), product)

"""Slow tests by name: gives the tests of ``tests/slow.yaml`` the marker ``slow``."""

from pathlib import Path

import pytest
import yaml

SLOW = Path(__file__).resolve().parents[1] / "slow.yaml"


def slow_names(path: Path = SLOW) -> set[str]:
    """Return the names of the listed test functions and classes."""
    return set(yaml.safe_load(path.read_text()))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the listed tests before ``-m`` selects."""
    names = slow_names()
    for item in items:
        if names & {part.partition("[")[0] for part in item.nodeid.split("::")[1:]}:
            item.add_marker(pytest.mark.slow)

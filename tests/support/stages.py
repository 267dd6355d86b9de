"""Scenario stages: the explicit order of test modules that share one running fleet.

Tests of an installed fleet depend on what earlier ones left behind: monitoring wants traffic that
has happened, and removal comes last. Each module of such a suite carries ``stage("upgrade")``, and
the suite's conftest lists its stages in order. File names say nothing about the order.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", "stage(name): place of the module in its suite's scenario")


def sort_by_stage(items: list[pytest.Item], folder: Path, stages: Sequence[str]) -> None:
    """Put the tests of one suite into the order of its stages, in place.

    Tests of other suites keep their places, and tests of one stage keep their order.

    Args:
        items: The collected tests.
        folder: Folder of the suite.
        stages: Names of the stages, first to last.

    Raises:
        pytest.UsageError: A test of the suite has no stage, or one that is not listed.
    """
    places = [place for place, item in enumerate(items) if item.path.is_relative_to(folder)]
    suite = [items[place] for place in places]
    for item in suite:
        if stage_of(item) not in stages:
            raise pytest.UsageError(
                f"{item.nodeid}: stage {stage_of(item)!r} is unknown; stages: {', '.join(stages)};"
                " set `pytestmark = [pytest.mark.stage(...)]`"
            )
    suite.sort(key=lambda item: stages.index(stage_of(item)))
    for place, item in zip(places, suite, strict=True):
        items[place] = item


def stage_of(item: pytest.Item) -> str:
    """Return the name of a test's stage, "" if it has none."""
    marker = item.get_closest_marker("stage")
    return str(marker.args[0]) if marker and marker.args else ""

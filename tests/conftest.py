"""Fixtures and plugins of all tests."""

import gc
import logging
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from fleet.testing import RedisServer
from hypothesis import settings

pytest_plugins = [
    "pytester",
    "tests.support.requirements",
    "tests.support.floors",
    "tests.support.stages",
    "tests.support.slow",
]

# A timing is a benchmark, never an assertion: a busy machine fails no property. Under CI the parent
# is Hypothesis' own profile, which draws the same examples in each run.
settings.register_profile("untimed", settings(), deadline=None)
settings.load_profile("untimed")

_PROCESS_SUITES = ("integration", "e2e", "cluster")


def _let_torch_propagate() -> None:
    """Let the loggers of torch hand their records to the root.

    Pytest attaches a handler to each logger that does not, three times a test. Torch has sixty of
    them, which took a twentieth of the fast tests' time.
    """
    for name, logger in logging.root.manager.loggerDict.items():
        if name.partition(".")[0] == "torch" and isinstance(logger, logging.Logger):
            logger.handlers.clear()
            logger.propagate = True


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector from walking modules and items, which live to the end.

    It took 9 of 20 s of the unit tests' collection, in each worker.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        _let_torch_propagate()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Report leaked sockets of the suites with real processes, and group them for workers.

    The garbage collector finds a leak in whichever test runs next, seconds later, so an error would
    name the wrong test. Unit tests, which are short, fail on a leak.
    """
    for item in items:
        path = item.path.relative_to(item.config.rootpath)
        if path.parts[1] in _PROCESS_SUITES:
            shown = "default::pytest.PytestUnraisableExceptionWarning"
            item.add_marker(pytest.mark.filterwarnings(shown))
            # Several workers share a run by group: a module is one, for its fixtures' sake, and so
            # is a suite whose modules tell one story of one fleet.
            group = path.parts[1] if item.get_closest_marker("stage") else str(path)
            item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis server process with the fleet's durability settings."""
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder)
    server.start()
    yield server
    server.kill()

"""Scenario stages decide the order of a suite, and file names do not."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
# The module's source becomes a plugin of the small project.
STAGES = Path(__file__).resolve().parents[2] / "support" / "stages.py"
CONFTEST = """
from pathlib import Path
from tests_support_stages import sort_by_stage

def pytest_collection_modifyitems(items):
    sort_by_stage(items, Path(__file__).parent, ("use", "break"))
"""
MODULE = """
import pytest
pytestmark = [{mark}]
def test_it(): pass
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A suite with two stages beside another suite."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeconftest('pytest_plugins = ["tests_support_stages"]\n')
    pytester.makepyfile(tests_support_stages=STAGES.read_text())
    folder = pytester.mkdir("scenario")
    (folder / "conftest.py").write_text(CONFTEST)
    write = {"a_last": "pytest.mark.stage('break')", "z_first": "pytest.mark.stage('use')"}
    for name, mark in write.items():
        (folder / f"test_{name}.py").write_text(MODULE.format(mark=mark))
    pytester.makepyfile(test_other=MODULE.format(mark=""))
    pytester.syspathinsert()
    return pytester


def test_stages_decide_the_order(suite: pytest.Pytester) -> None:
    """The first stage runs first although its file is the last."""
    result = suite.runpytest_subprocess("-v", "scenario", "test_other.py")

    result.stdout.fnmatch_lines(["*test_z_first*PASSED*", "*test_a_last*PASSED*", "*test_other*"])
    assert result.ret == pytest.ExitCode.OK


@pytest.mark.parametrize("mark", ["", "pytest.mark.stage('typo')"])
def test_module_without_a_known_stage_is_an_error(suite: pytest.Pytester, mark: str) -> None:
    """A module that no stage orders stops the run."""
    (suite.path / "scenario" / "test_b.py").write_text(MODULE.format(mark=mark))
    result = suite.runpytest_subprocess("scenario")

    result.stderr.fnmatch_lines(["*test_b.py*stages: use, break*"])
    assert result.ret == pytest.ExitCode.USAGE_ERROR

"""A run with too few tests, or with a skip that no hardware explains, is not green."""

import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
SUPPORT = Path(__file__).resolve().parents[2] / "support"
FLOORS = "suites:\n  unit: {floor}\n  charts: 0\nhardware:\n  CUDA: no CUDA device\n"
PASSING = "def test_a(): pass\ndef test_b(): pass\n"


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A small project with the plugins of this one."""
    for name in ("CI", "ALLOW_SKIPS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # starts in half the time
    shutil.copytree(SUPPORT, pytester.path / "tests" / "support")
    (pytester.path / "tests" / "__init__.py").touch()
    plugins = ["tests.support.requirements", "tests.support.floors"]
    (pytester.path / "tests" / "conftest.py").write_text(f"pytest_plugins = {plugins}\n")
    (pytester.path / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    return pytester


def run(
    project: pytest.Pytester, source: str, *options: str, floor: int = 2, **env: str
) -> pytest.RunResult:
    """Run one unit test module under a floor, in a process with its own environment."""
    (project.path / "tests" / "floors.yaml").write_text(FLOORS.format(floor=floor))
    folder = project.path / "tests" / "unit"
    folder.mkdir(exist_ok=True)
    (folder / "test_it.py").write_text(f"import pytest\n{source}")
    for name, value in env.items():
        project._monkeypatch.setenv(name, value)
    chosen = options or ("tests/unit",)
    return project.runpytest_subprocess("-p", "no:cacheprovider", *chosen)


def test_suite_at_its_floor_passes(project: pytest.Pytester) -> None:
    """As many tests as the floor says are enough."""
    assert run(project, PASSING, CI="true").ret == pytest.ExitCode.OK


def test_suite_below_its_floor_fails_under_ci(project: pytest.Pytester) -> None:
    """A suite that lost tests is red although every test passed."""
    result = run(project, PASSING, floor=3, CI="true")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*unit: 2 tests ran; the floor is 3*"])


def test_tests_of_all_workers_count(project: pytest.Pytester) -> None:
    """Parallel workers report to one count: it meets the floor, misses it, and sees their skips."""
    workers = ("-p", "xdist", "-n", "2", "--dist", "worksteal", "tests/unit")
    met = run(project, PASSING, *workers, CI="true")
    missed = run(project, PASSING, *workers, floor=3, CI="true")
    source = PASSING + "def test_c(): pytest.skip('no reason')\n"
    skipped = run(project, source, *workers, CI="true")
    run(project, PASSING, *workers, "--update-floors", floor=1)

    assert met.ret == pytest.ExitCode.OK
    assert missed.ret == pytest.ExitCode.TESTS_FAILED
    missed.stdout.fnmatch_lines(["*unit: 2 tests ran; the floor is 3*"])
    assert skipped.ret == pytest.ExitCode.TESTS_FAILED
    skipped.stdout.fnmatch_lines(["1 tests did not run: no reason"])
    assert "  unit: 2" in (project.path / "tests" / "floors.yaml").read_text()


@pytest.mark.parametrize("part", [("-k", "test_a"), ("tests/unit/test_it.py::test_a",)])
def test_part_of_a_suite_has_no_floor(project: pytest.Pytester, part: tuple[str, ...]) -> None:
    """Who selects tests by name or expression is not told that the others did not run."""
    chosen = part if "::" in part[0] else ("tests/unit", *part)
    assert run(project, PASSING, *chosen, CI="true").ret == pytest.ExitCode.OK


def test_skipped_test_has_not_run(project: pytest.Pytester) -> None:
    """A test that is skipped for hardware is allowed, but counts for no floor."""
    source = "def test_a(): pytest.skip('has no CUDA device')\ndef test_b(): pass\n"
    allowed = run(project, source, floor=1, CI="true")
    missed = run(project, source, floor=2, CI="true")

    assert allowed.ret == pytest.ExitCode.OK
    allowed.stdout.fnmatch_lines(["1 tests did not run: this machine lacks CUDA"])
    assert missed.ret == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize("skip", ["pytest.skip('no reason')", "pytest.importorskip('no_module')"])
def test_unexplained_skip_fails_under_ci(project: pytest.Pytester, skip: str) -> None:
    """Any skip that names no hardware is a failure, however it was raised."""
    source = f"def test_a(): {skip}\ndef test_b(): pass\n"
    desk = run(project, source, floor=0)
    ci = run(project, source, floor=0, CI="true")

    assert desk.ret == pytest.ExitCode.OK
    assert ci.ret == pytest.ExitCode.TESTS_FAILED


def test_whole_run_on_a_desk_fails_on_skips_unless_allowed(project: pytest.Pytester) -> None:
    """`make test` says how many tests did not run, and is green only by ALLOW_SKIPS=1."""
    source = "pytestmark = pytest.mark.requires('no-such-tool')\n" + PASSING
    chosen = ("tests/unit", "--fail-on-skip")
    refused = run(project, source, *chosen)
    allowed = run(project, source, *chosen, ALLOW_SKIPS="1")

    assert refused.ret == pytest.ExitCode.TESTS_FAILED
    refused.stdout.fnmatch_lines(["*2 tests did not run; set ALLOW_SKIPS=1*"])
    assert allowed.ret == pytest.ExitCode.OK


def test_floors_are_raised_and_never_lowered(project: pytest.Pytester) -> None:
    """--update-floors writes what ran where that is more."""
    run(project, PASSING, "tests/unit", "--update-floors", floor=1)
    raised = (project.path / "tests" / "floors.yaml").read_text()
    run(project, PASSING, "tests/unit", "--update-floors", floor=9)
    kept = (project.path / "tests" / "floors.yaml").read_text()

    assert "  unit: 2" in raised
    assert "  unit: 9" in kept

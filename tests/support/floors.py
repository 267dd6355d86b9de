"""Floors of tests: a suite that ran fewer tests than its floor fails, and no skip goes unnoticed.

``tests/floors.yaml`` holds for each suite (a folder of ``tests/``) the number of tests that must
have run, and the hardware reasons for which a test may be skipped anywhere. A suite's floor holds
when the whole suite was selected. Under CI a floor that is missed, or a skip for any other reason,
fails the run; so does ``--fail-on-skip`` (``make test``) unless ``ALLOW_SKIPS=1``.
``--update-floors`` raises the floors to what ran; they are never lowered by it.
"""

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from tests.support.requirements import in_ci

FLOORS = Path(__file__).resolve().parents[1] / "floors.yaml"


@dataclass(frozen=True)
class Floors:
    """The committed floors.

    Attributes:
        suites: Fewest tests that must have run, by suite.
        hardware: Patterns of skip reasons that name missing hardware, by its name.
    """

    suites: dict[str, int]
    hardware: dict[str, str]

    @classmethod
    def read(cls, path: Path = FLOORS) -> "Floors":
        """Return the floors of a file."""
        content = yaml.safe_load(path.read_text())
        return cls(content["suites"], content["hardware"])

    def hardware_of(self, reason: str) -> str | None:
        """Return the hardware that a skip's reason names, None if it names none."""
        matches = (name for name, text in self.hardware.items() if re.search(text, reason))
        return next(matches, None)

    def missed(self, complete: list[str], ran: Counter[str]) -> list[str]:
        """Return a sentence for each complete suite that ran fewer tests than its floor.

        Args:
            complete: Suites that were selected as a whole.
            ran: Number of tests that ran, by suite.
        """
        return [
            f"{suite}: {ran[suite]} tests ran; the floor is {self.suites[suite]};"
            " see the skips above, or lower tests/floors.yaml if tests were removed"
            for suite in complete
            if ran[suite] < self.suites[suite]
        ]


@dataclass(eq=False)  # pytest keeps plugins in sets
class RunRecord:
    """What a session ran and skipped: a pytest plugin.

    Attributes:
        floors: The committed floors.
        ran: Number of tests whose body ran, by suite.
        skips: Number of tests that were skipped for another reason than hardware, by reason.
        hardware: Number of tests that were skipped for hardware, by its name.
    """

    floors: Floors
    ran: Counter[str] = field(default_factory=Counter)
    skips: Counter[str] = field(default_factory=Counter)
    hardware: Counter[str] = field(default_factory=Counter)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test that ran, or why it did not; an expected failure has run."""
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = _reason(report)
            name = self.floors.hardware_of(reason)
            counter = self.hardware if name else self.skips
            counter[name or reason] += 1
        elif report.when == "call":
            self.ran[suite_of(report.nodeid)] += 1

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Raise the floors if asked; fail the session if tests that should have run did not."""
        config = session.config
        if config.getoption("update_floors"):
            _raise_floors(complete_suites(config, self.floors), self.ran)
        if session.exitstatus == pytest.ExitCode.OK and self._problems(config):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, config: pytest.Config
    ) -> None:
        """Print what ran, what did not, and why."""
        write = terminalreporter.write_line
        for name, count in sorted(self.hardware.items()):
            write(f"{count} tests did not run: this machine lacks {name}")
        for reason, count in self.skips.most_common():
            write(f"{count} tests did not run: {reason}", yellow=True)
        for problem in self._problems(config):
            write(f"error: {problem}", red=True)

    def _problems(self, config: pytest.Config) -> list[str]:
        if in_ci():
            problems = self.floors.missed(complete_suites(config, self.floors), self.ran)
        elif config.getoption("fail_on_skip") and os.environ.get("ALLOW_SKIPS") != "1":
            problems = []
        else:
            return []
        if skipped := self.skips.total():
            hint = "" if in_ci() else "; set ALLOW_SKIPS=1 to accept that"
            problems.append(f"{skipped} tests did not run{hint}")
        return problems


def suite_of(nodeid: str) -> str:
    """Return the suite of a test: the folder below ``tests``, "" for a test elsewhere."""
    parts = nodeid.split("/")
    return parts[1] if parts[0] == "tests" and len(parts) > 2 else ""


def complete_suites(config: pytest.Config, floors: Floors) -> list[str]:
    """Return the suites that a session selects as a whole.

    A marker or keyword expression, a deselection or a single file selects a part.
    """
    narrowed = ("keyword", "markexpr", "deselect", "lf", "ignore", "ignore_glob", "collectonly")
    if any(config.getoption(name, None) for name in narrowed):
        return []
    chosen = [Path(config.invocation_params.dir, argument).resolve() for argument in config.args]
    folder = config.rootpath / "tests"
    return [
        suite
        for suite in floors.suites
        if any((folder / suite).resolve().is_relative_to(path) for path in chosen)
    ]


def _reason(report: pytest.TestReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ").strip()


def _raise_floors(complete: list[str], ran: Counter[str], path: Path = FLOORS) -> None:
    text = path.read_text()
    for suite in complete:

        def raised(match: re.Match[str], count: int = ran[suite]) -> str:
            return f"{match[1]}{max(int(match[2]), count)}"

        text = re.sub(rf"(?m)^(  {suite}: )(\d+)", raised, text)
    path.write_text(text)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("floors")
    group.addoption(
        "--fail-on-skip",
        action="store_true",
        help="fail if tests were skipped for another reason than hardware (unless ALLOW_SKIPS=1)",
    )
    group.addoption(
        "--update-floors",
        action="store_true",
        help="raise tests/floors.yaml to the number of tests that ran",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Record what this session runs; workers of pytest-xdist report to their controller."""
    if hasattr(config, "workerinput"):
        return
    config.pluginmanager.register(RunRecord(Floors.read()), "run-record")

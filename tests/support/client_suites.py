"""Suites of client libraries: run as processes, in environments that our tests do not share.

Triton's client registers the messages of a protocol that ours registers too. LangChain's and
LiteLLM's bring pytest plugins and pinned dependencies that would decide our own lock.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from tests.support.requirements import require, unavailable

ROOT = Path(__file__).resolve().parents[2]
SUITES = ROOT / "tests" / "e2e" / "clients"
LOCK = ROOT / "requirements" / "clients.lock"
_TIMEOUT_S = 280


@dataclass(frozen=True)
class SuiteResult:
    """Outcome of a suite.

    Attributes:
        passed: Number of tests that passed.
        skipped: Number of tests that the suite skipped.
        failed: Names of the tests that failed or could not run.
        output: What the suite printed.
    """

    passed: int
    skipped: int
    failed: list[str]
    output: str


def client_python() -> str:
    """Return the interpreter of the environment that ``requirements/clients.lock`` describes.

    It is made at the first use, below ``.tools``; a changed lock makes another one.
    """
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    folder = ROOT / ".tools" / f"clients-{digest}"
    python = folder / "bin" / "python"
    if (folder / "ready").is_file():
        return str(python)
    uv = require("uv")
    for command in (
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)],
        [uv, "pip", "sync", "--quiet", "--python", str(python), "--require-hashes", str(LOCK)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            unavailable(f"client environment: {done.stderr.strip()[-400:]}")
    (folder / "ready").touch()
    return str(python)


def run_suite(
    name: str, folder: Path, environment: Mapping[str, str], *, python: str = sys.executable
) -> SuiteResult:
    """Run one suite and return its outcome.

    Args:
        name: File in ``tests/e2e/clients``, without its suffix.
        folder: Folder for the report.
        environment: Variables that the suite reads.
        python: Interpreter of the suite.
    """
    report = folder / f"{name}.xml"
    command = [python, "-m", "pytest", str(SUITES / f"{name}.py"), "-q", "--noconftest"]
    options = ["-c", os.devnull, "--rootdir", str(SUITES), "--import-mode=importlib"]
    # The libraries keep their connections from one test to the next, which only one loop allows.
    scopes = ("asyncio_default_fixture_loop_scope", "asyncio_default_test_loop_scope")
    options += ["-o", "asyncio_mode=auto"]
    options += [word for scope in scopes for word in ("-o", f"{scope}=session")]
    done = subprocess.run(
        [*command, *options, "-p", "no:cacheprovider", f"--junitxml={report}"],
        env={**os.environ, "PYTHONPATH": "", **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_S,
    )
    output = done.stdout + done.stderr
    if not report.is_file():
        return SuiteResult(0, 0, [f"{name} did not run"], output)
    cases = list(ET.parse(report).iter("testcase"))  # noqa: S314 - our own pytest wrote it
    failed = [
        case.get("name", "") for case in cases if case.find("failure") is not None or _erred(case)
    ]
    skipped = sum(case.find("skipped") is not None for case in cases)
    return SuiteResult(len(cases) - len(failed) - skipped, skipped, failed, output)


def _erred(case: ET.Element) -> bool:
    return case.find("error") is not None

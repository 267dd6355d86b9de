"""Rendering of the chart with each set of values; run as a module it rewrites golden/."""

import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.support.requirements import find

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts"
GOLDEN = Path(__file__).parent / "golden"
VALUE_SETS = sorted((CHART / "ci").glob("*-values.yaml"))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run helm and return its result.

    Raises:
        FileNotFoundError: Helm is not installed.
    """
    binary = find("helm")
    if binary is None:
        raise FileNotFoundError("helm: neither on PATH nor fetched; run `make clients`")
    return subprocess.run([binary, *arguments], capture_output=True, text=True, check=False)


def render(values: Path, *sets: str) -> str:
    """Return the objects of ``helm install bem-fleet charts/`` with ``values``, as YAML.

    Raises:
        ValueError: The chart refuses the values; the message is helm's.
    """
    options = [word for one in sets for word in ("--set", one)]
    done = run("template", "bem-fleet", str(CHART), "-n", "fleet", "-f", str(values), *options)
    if done.returncode:
        raise ValueError(done.stderr)
    return done.stdout


def objects(text: str) -> list[dict[str, Any]]:
    """Return the objects of a rendered text."""
    return [found for found in yaml.load_all(text, yaml.CSafeLoader) if found]


def golden_of(values: Path) -> Path:
    """Return the file with the expected rendering of ``values``."""
    return GOLDEN / values.name.replace("-values", "")


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for each in VALUE_SETS:
        golden_of(each).write_text(render(each))

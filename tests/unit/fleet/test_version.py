"""Version of the code that serves."""

import tomllib
from pathlib import Path

from fleet.version import VERSION

ROOT = Path(__file__).resolve().parents[3]


def test_version_is_that_of_the_package_and_the_chart() -> None:
    """Images have no package metadata: the constant, the package and the chart agree."""
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = (ROOT / "charts/Chart.yaml").read_text()

    assert package == VERSION
    assert f"appVersion: {VERSION}" in chart.replace('"', "")

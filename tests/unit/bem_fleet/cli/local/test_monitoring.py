"""Prometheus beside the local fleet."""

import json
import subprocess
from pathlib import Path

import pytest
from bem_fleet.cli.local import monitoring
from bem_fleet.cli.local.monitoring import (
    PrometheusMissingError,
    find_prometheus,
    monitoring_command,
    prometheus_configuration,
    run_monitoring,
)
from bem_fleet.cli.local.plan import Plan
from bem_fleet.cli.local.supervision import SCRAPE_TARGETS


@pytest.fixture
def executable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of Prometheus' name, alone on PATH, that prints its arguments."""
    file = tmp_path / "bin" / "prometheus"
    file.parent.mkdir()
    file.write_text('#!/bin/sh\necho "$@"\n')
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{file.parent}:/usr/bin:/bin")
    return file


def test_configuration_scrapes_the_fleet_and_loads_the_charts_rules(tmp_path: Path) -> None:
    """Targets are the file that ``make up`` writes; every rule file exists."""
    made = prometheus_configuration(Plan(run=tmp_path))
    (job,) = made["scrape_configs"]
    (rules,) = made["rule_files"]

    assert job["file_sd_configs"] == [{"files": [str(tmp_path / SCRAPE_TARGETS)]}]
    assert list(Path(rules).parent.glob(Path(rules).name))
    assert [one["action"] for one in job["metric_relabel_configs"]] == ["drop"]


def test_command_names_the_written_configuration(tmp_path: Path, executable: Path) -> None:
    """The command runs, and the configuration is in the run folder."""
    command = monitoring_command(Plan(run=tmp_path), "127.0.0.1:9999")
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    file = tmp_path / "prometheus" / "prometheus.yml"

    assert command[0] == str(executable)
    assert f"--config.file={file}" in said
    assert "--web.listen-address=127.0.0.1:9999" in said
    assert json.loads(file.read_text()) == prometheus_configuration(Plan(run=tmp_path))


def test_missing_prometheus_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither on PATH nor fetched: the command to fetch it is named."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("BEM_CLUSTER_HOME", str(tmp_path / "none"))
    (tmp_path / SCRAPE_TARGETS).write_text("[]")

    with pytest.raises(PrometheusMissingError, match="make prometheus"):
        find_prometheus()
    assert run_monitoring(Plan(run=tmp_path)) == 1
    assert "make prometheus" in capsys.readouterr().out


def test_fetched_prometheus_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the local cluster's tool has fetched is used without an installation."""
    file = tmp_path / "bin" / "prometheus"
    file.parent.mkdir()
    file.write_text("")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setenv("BEM_CLUSTER_HOME", str(tmp_path))

    assert find_prometheus() == str(file)


def test_monitoring_needs_a_fleet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without targets there is nothing to scrape, and the message says what to run."""
    assert run_monitoring(Plan(run=tmp_path)) == 1
    assert "make up" in capsys.readouterr().out
    assert monitoring.ADDRESS.startswith("127.0.0.1:")

"""Commands of the local fleet without a running fleet."""

import json
from pathlib import Path

import pytest
from bem_fleet.cli.local import commands
from bem_fleet.cli.local.plan import Plan
from bem_fleet.cli.reports import print_report
from fleet.testing import free_port


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """A fleet that does not run."""
    return Plan(run=tmp_path, ports={name: free_port() for name in Plan().ports})


def test_status_of_no_fleet(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    """Every process is listed as stopped, without memory; exit code 1."""
    code = print_report(commands.status(plan), as_json=True)
    found = json.loads(capsys.readouterr().out)

    assert code == 1
    assert found["healthy"] is False
    assert {row["state"] for row in found["programs"]} == {"STOPPED"}
    assert {row["pss_bytes"] for row in found["programs"]} == {None}
    assert [row["name"] for row in found["programs"]] == [one.name for one in plan.programs()]


def test_table_has_a_memory_column(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    """People see state, memory and ports in one table."""
    print_report(commands.status(plan), as_json=False)
    heading = capsys.readouterr().out.splitlines()[0]

    assert heading.split()[:4] == ["process", "state", "memory", "listens"]


def test_down_without_a_fleet(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing to stop is no error."""
    assert commands.down(plan) == 0
    assert "no fleet is running" in capsys.readouterr().out


def test_unknown_log_is_named(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    """The names that exist are listed."""
    commands.logs(plan, "rooter", 5, follow=False)

    assert "no log of 'rooter'; choose one of redis" in capsys.readouterr().out


def test_reason_of_an_exit_is_read_from_the_log(tmp_path: Path) -> None:
    """The last record that names one counts; other lines and a missing log are passed over."""
    log = tmp_path / "router.log"
    assert commands._exit_reason(log) == ""
    records = [
        {"event": "background work failed", "reason": "an older one"},
        {"event": "background work failed", "reason": "backbone: qwen is not supported"},
        {"event": "draining"},
    ]
    log.write_text("Traceback\n" + "".join(f"{json.dumps(one)}\n" for one in records) + "[1]\n{")

    assert commands._exit_reason(log) == ": backbone: qwen is not supported"

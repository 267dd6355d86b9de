"""Reports of commands: text for people, JSON for programs."""

import io
import json
import sys

import pytest
import typer
from bem_fleet.cli.application import run_application
from bem_fleet.cli.reports import Report, Table, data_of, print_table, prints_report
from bemfleet.fleet.v1 import fleet_pb2 as pb

ROWS = [("name", "state"), ("router", "[ok]")]
app = typer.Typer()


@app.callback()
def _group() -> None:
    """Keep the command's name."""


@app.command("show")
@prints_report
def show(name: str, count: int = 2) -> Report:
    """Show something."""
    data = {"name": name, "mission": pb.Mission(name=name, replicas=count)}
    return Report(data, [f"{name}:", Table(ROWS)], 1)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Run a command; returns its exit code and standard output."""
    code = run_application(app, "fleetctl", words)
    return code, capsys.readouterr().out


def test_report_is_lines_and_columns(capsys: pytest.CaptureFixture[str]) -> None:
    """Away from a terminal, columns depend on no width; the exit code is the report's."""
    assert run(capsys, "show", "x") == (1, "x:\nname    state\nrouter  [ok]\n")


def test_json_has_the_same_with_the_protos_names(capsys: pytest.CaptureFixture[str]) -> None:
    """Every command with a report has the option, behind its own."""
    code, shown = run(capsys, "show", "x", "--count", "3", "--json")
    found = json.loads(shown)

    assert code == 1
    assert found["name"] == "x"
    assert found["mission"]["replicas"] == 3
    assert found["mission"]["ready_replicas"] == 0  # present although it is the default
    assert "--json" in run(capsys, "show", "--help")[1]


def test_terminal_gets_a_table_with_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells are printed as they are: brackets are no markup."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    print_table(ROWS)

    shown = terminal.getvalue()
    assert "[ok]" in shown
    assert "━" in shown


def test_messages_in_lists_become_json() -> None:
    """Values that are JSON already stay as they are."""
    found = data_of([pb.Edge(to="b"), {"n": 1.5}, "text"])

    assert found[0]["to"] == "b"
    assert found[1:] == [{"n": 1.5}, "text"]

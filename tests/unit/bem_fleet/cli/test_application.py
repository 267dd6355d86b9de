"""Exit codes of the command line."""

import pytest
import typer
from bem_fleet.cli.application import CANNOT_TELL, NO, YES, run_application
from bem_fleet.cli.local.checks import NotReadyToStartError
from fleet.errors import UnavailableError

app = typer.Typer()


@app.command()
def answer(code: int) -> int:
    """Return a code."""
    return code


@app.command()
def fail(what: str) -> int:
    """Raise an error."""
    raise NotReadyToStartError("port 1") if what == "port" else UnavailableError("redis")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["answer", "0"], YES, ""),
        (["answer", "1"], NO, ""),
        (["fail", "port"], NO, "fleet: port 1"),
        (["fail", "redis"], CANNOT_TELL, "fleet: redis"),
        (["answer", "x"], CANNOT_TELL, "fleet: "),
        (["rename"], CANNOT_TELL, "fleet: No such command"),
        (["--help"], YES, ""),
    ],
)
def test_exit_codes(
    words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """0 is yes, 1 is no, 2 is cannot tell, and the reason goes to standard error."""
    assert run_application(app, "fleet", words) == code
    assert message in capsys.readouterr().err

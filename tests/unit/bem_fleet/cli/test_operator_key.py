"""Operator's key of a command."""

from pathlib import Path

import pytest
from bem_fleet.cli.operator_key import operator_metadata
from bem_fleet.operator_key import VARIABLE
from fleet.errors import InvalidArgumentError

KEY = (("authorization", "Bearer secret"),)


@pytest.fixture(autouse=True)
def _run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "operator.key").write_text("secret\n")
    monkeypatch.setenv("RUN_DIR", str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)


def test_key_of_this_machine_goes_to_this_machine_only() -> None:
    """A mistyped address must not learn it."""
    assert operator_metadata("127.0.0.1:50101") == KEY
    assert operator_metadata("unix:/run/o.sock") == KEY
    assert operator_metadata("10.1.2.3:50101") == ()
    assert operator_metadata("localhost.example:50101") == ()


def test_variable_names_the_key_of_another_fleet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is sent to any address; a file that is missing is an error."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "operator.key"))
    assert operator_metadata("10.1.2.3:50101") == KEY
    monkeypatch.setenv(VARIABLE, str(tmp_path / "absent"))
    with pytest.raises(InvalidArgumentError, match=VARIABLE):
        operator_metadata("10.1.2.3:50101")


def test_without_a_fleet_there_is_no_key(tmp_path: Path) -> None:
    """The service says that it needs one."""
    (tmp_path / "operator.key").unlink()

    assert operator_metadata("127.0.0.1:50101") == ()

"""File of the operator's key."""

from pathlib import Path

import pytest
from bem_fleet.checkout import ROOT
from bem_fleet.operator_key import VARIABLE, operator_key_file


def test_file_is_the_named_one_or_that_of_the_run_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable wins over the run folder, and the run folder over the checkout's own."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv("RUN_DIR", raising=False)
    own = operator_key_file()
    monkeypatch.setenv("RUN_DIR", "run")
    run = operator_key_file()
    monkeypatch.setenv(VARIABLE, "named.key")
    named = operator_key_file()

    assert own == ROOT / ".run/operator.key"
    assert run == Path("run/operator.key")
    assert named == Path("named.key")

"""``fleetctl safety`` against a sidecar of canned responses."""

import json
from collections.abc import Iterator

import pytest
from bem_fleet.cli import main

from tests.support.canned_fleet import canned_fleet


@pytest.fixture
def address() -> Iterator[str]:
    """Address of the sidecar."""
    with canned_fleet() as (_, port):
        yield f"127.0.0.1:{port}"


def run(capsys: pytest.CaptureFixture[str], address: str, *words: str) -> tuple[int, str, str]:
    """Run a command; returns its exit code, standard output and standard error."""
    code = main(["safety", "--address", address, *words])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_verdict_is_the_exit_code(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    """0 for what passes, 1 for what is withheld, with the scores."""
    good, bad = run(capsys, address, "check", "hi"), run(capsys, address, "check", "bad")

    assert good[0] == 0
    assert good[1].startswith("allow, overall 0.000, policy v1\n")
    assert bad[0] == 1
    assert "toxicity  harmlessness  0.900  0.000      yes" in bad[1]


def test_strength_is_set(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is in force is printed; a floor may be set with it."""
    code, shown, _ = run(capsys, address, "strength", "0.5", "--floor", "0.25")

    assert (code, shown) == (0, "router: strength 0.5, floor 0.25\n")
    assert run(capsys, address, "strength", "1.5")[0] == 2


def test_refusal_is_exit_code_1_as_text_and_as_json(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """People read it at standard error, programs at standard output."""
    words = ("strength", "1", "--tenant", "acme")
    text, found = run(capsys, address, *words), run(capsys, address, *words, "--json")

    assert text == (1, "", "PERMISSION_DENIED: tenant: is another's\n")
    assert found[0] == 1
    assert json.loads(found[1])["error"]["code"] == "PERMISSION_DENIED"

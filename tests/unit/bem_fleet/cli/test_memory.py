"""``fleetctl memory`` without a mission; calls are in tests/integration/test_memory_clients.py."""

from pathlib import Path

import pytest
from bem_fleet.cli import main
from fleet.testing import free_port


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Run a command; returns its exit code and what it printed."""
    code = main(["memory", *words])
    shown = capsys.readouterr()
    return code, shown.out + shown.err


def test_unreachable_mission_is_no_refusal(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and the address say that it cannot be told."""
    address = f"127.0.0.1:{free_port()}"
    code, shown = run(capsys, "--address", address, "ask", "Who?")

    assert code == 2
    assert address in shown


def test_files_that_cannot_be_read_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing key, a missing file and a file that is no text are wrong arguments."""
    image = tmp_path / "image.png"
    image.write_bytes(b"\x89PNG\xff")
    cases = {
        "key-file: key: No such file": ("--key-file", str(tmp_path / "key"), "ask", "Who?"),
        "file: book: is no readable UTF-8 text": ("ingest", str(tmp_path / "book")),
        "file: image.png: is no readable UTF-8 text": ("ingest", str(image)),
    }
    for problem, words in cases.items():
        code, shown = run(capsys, *words)
        assert code == 2
        assert problem in shown

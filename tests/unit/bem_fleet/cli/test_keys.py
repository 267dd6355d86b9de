"""``fleetctl keys``."""

from pathlib import Path

import pytest
from bem_fleet.cli import main
from fleet.access.keys import KeyRing, read_keys


def run(capsys: pytest.CaptureFixture[str], file: Path, *words: str) -> tuple[int, str]:
    """Run a command and return its exit code and last line."""
    code = main(["keys", "--file", str(file), *words])
    shown = capsys.readouterr()
    return code, (shown.out or shown.err).strip().splitlines()[-1]


def test_keys_are_added_rotated_and_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each printed key is valid at once, and the file holds none of them."""
    file = tmp_path / "keys.yaml"
    options = ("--tenant", "acme", "--requests-per-minute", "5", "--days", "30")
    _, first = run(capsys, file, "add", "web", *options)
    _, second = run(capsys, file, "rotate", "web")
    found = [KeyRing(file).find(key) for key in (first, second)]
    assert [one.tenant for one in found if one] == ["acme", "acme"]
    assert first not in file.read_text()
    assert "requests per minute 5" in run(capsys, file, "list")[1]
    run(capsys, file, "retire", "web")
    assert KeyRing(file).find(first) is None
    assert KeyRing(file).find(second)
    run(capsys, file, "remove", "web")

    assert read_keys(file).keys == ()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("add", "web"), 2, "exists"),
        (("add", "A b"), 2, "name"),
        (("add", "x", "--role", "admin"), 2, "role"),
        (("remove", "nobody"), 1, "keys: web"),
    ],
)
def test_wrong_command_is_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    """The error names the field, and the file stays as it was."""
    file = tmp_path / "keys.yaml"
    run(capsys, file, "add", "web")
    before = file.read_text()
    found = run(capsys, file, *words)

    assert found[0] == code
    assert message in found[1]
    assert file.read_text() == before

"""Signed reports: hashes of what was measured, and a key that a command finds or makes."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from bem.errors import EvaluationError
from bem_fleet.acceptance.evidence import check_evidence, output_digest, read_evidence_keys
from bem_fleet.operator_key import VARIABLE
from bem_fleet.studies.signed_report import signed_report, signing_key, write_signed_report

from tests.support.synthetic_reports import KEY

NAME = "results/safety_quality.json"


def report(**changed: Any) -> dict[str, Any]:
    """Return a report of a study, before it is signed."""
    return {
        "id": "safety_quality",
        "metrics": {"f1": {"mission": [[0.5, 1.0]], "baseline": [[0.5, 0.5]], "keys": ["a", "b"]}},
        "seeds": [0],
        "data": {"name": "d", "digest": "d1"},
        "outputs": {"mission": [["one", "two"]], "baseline": [["one", "three"]]},
        **changed,
    }


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git checkout with one commit."""
    root = tmp_path / "checkout"
    (root / "libs").mkdir(parents=True)
    (root / "libs/code.py").write_text("A = 1\n")
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    for arguments in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "First"]):
        subprocess.run(["git", "-C", str(root), *arguments], check=True)
    return root


def test_report_has_the_hashes_of_what_was_measured(checkout: Path) -> None:
    """Texts are stored as digests alone; the commit is clean until its code is changed."""
    signed = signed_report(report(), KEY, artifacts={"adapter": "a" * 64}, root=checkout)
    (checkout / "libs/code.py").write_text("A = 2\n")
    changed = signed_report(report(), KEY, artifacts={}, root=checkout)
    evidence = signed["evidence"]

    assert "outputs" not in signed
    assert "three" not in json.dumps(signed)
    assert evidence["outputs"]["baseline"] == [[output_digest("one"), output_digest("three")]]
    assert (evidence["study"], evidence["artifacts"]) == ("safety_quality", {"adapter": "a" * 64})
    assert (evidence["code"]["clean"], changed["evidence"]["code"]["clean"]) == (True, False)
    assert evidence["code"]["commit"] == changed["evidence"]["code"]["commit"]


def test_changed_adapter_or_new_module_is_changed_code(checkout: Path) -> None:
    """What git does not track yet can change a figure as well."""
    (checkout / "services").mkdir()
    (checkout / "services/new.py").write_text("B = 1\n")

    assert not signed_report(report(), KEY, artifacts={}, root=checkout)["evidence"]["code"][
        "clean"
    ]


def test_without_a_commit_nothing_is_signed(tmp_path: Path) -> None:
    """An unpacked archive has no commit that somebody could measure again."""
    with pytest.raises(EvaluationError, match="measure in a checkout"):
        signed_report(report(), KEY, artifacts={}, root=tmp_path)


def test_written_report_is_verified_by_the_operators_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is made once, private, and both signs and verifies."""
    file = tmp_path / "run" / "operator.key"
    monkeypatch.setenv(VARIABLE, str(file))
    path = tmp_path / "safety_quality.json"
    written = write_signed_report(report(), path, artifacts={})
    again = signing_key()
    state = check_evidence(path, NAME, read_evidence_keys()).state

    assert file.stat().st_mode & 0o777 == 0o600
    assert again.id == written["evidence"]["key"]
    # The test's own checkout may have changes.
    assert state == ("verified" if written["evidence"]["code"]["clean"] else "changed_code")


def test_key_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder in the key's place is no key."""
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(EvaluationError, match="operator_key: "):
        signing_key()

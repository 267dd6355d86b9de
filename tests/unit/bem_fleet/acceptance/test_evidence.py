"""Evidence of reports: signatures, studies, and reports from before both."""

import json
from pathlib import Path
from typing import Any

import pytest
from bem.errors import GateFormatError
from bem_fleet.acceptance.evidence import (
    check_evidence,
    evidence_key,
    output_digest,
    read_evidence_keys,
    sign,
)
from bem_fleet.operator_key import VARIABLE

from tests.support.synthetic_reports import KEY, OPERATOR_KEY, paired_scores, write_report

NAME = "results/router_quality.json"
OTHER = evidence_key(b"another key")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A signed report."""
    write_report(tmp_path, NAME, {"f1": paired_scores(0.05, items=3)})
    return tmp_path / NAME


def verdict(path: Path, *keys: Any) -> tuple[str, str]:
    """Return state and reason of a report."""
    found = check_evidence(path, NAME, keys or (KEY,))
    return found.state, found.reason


def test_signed_report_is_verified_by_its_key_alone(path: Path) -> None:
    """Another key tells that it cannot tell; a former key beside the own one verifies."""
    assert verdict(path) == ("verified", "")
    assert verdict(path, OTHER)[0] == "unknown_key"
    assert verdict(path, OTHER, KEY)[0] == "verified"


def test_edited_item_output_or_artifact_is_refused(path: Path) -> None:
    """A figure, a digest or the commit: the signature does not fit any more."""
    signed = json.loads(path.read_text())
    edits: tuple[tuple[tuple[str | int, ...], object], ...] = (
        (("metrics", "f1", "mission", 0, 0), 1.0),
        (("data", "digest"), "other"),
        (("evidence", "artifacts", "adapter"), "a" * 64),
        (("evidence", "code", "commit"), "1" * 40),
        (("evidence", "signature"), "0" * 64),
    )
    for (*place, last), value in edits:
        forged = json.loads(json.dumps(signed))
        part = forged
        for step in place:
            part = part[step]
        part[last] = value
        path.write_text(json.dumps(forged))
        assert verdict(path) == ("refused", "it was edited after it was signed")
    path.write_text(json.dumps(signed, indent=4, sort_keys=True))

    assert verdict(path)[0] == "verified"


def test_key_id_in_a_foreign_signature_is_no_key(path: Path) -> None:
    """Who names the operator's key without having it has no signature by it."""
    report = json.loads(path.read_text())
    forged = sign(report, OTHER)
    forged["evidence"]["key"] = KEY.id
    path.write_text(json.dumps(forged))

    assert verdict(path)[0] == "refused"


def test_another_study_is_refused_by_name(tmp_path: Path, path: Path) -> None:
    """Neither a renamed file nor a changed id makes it the gate's study."""
    write_report(tmp_path, "results/router_cache.json", {"f1": paired_scores(0.05, items=3)})
    other = (tmp_path / "results/router_cache.json").read_text()
    path.write_text(other)
    renamed = verdict(path)
    relabelled = json.loads(other) | {"id": "router_quality"}
    path.write_text(json.dumps(sign(relabelled, KEY)))
    by_evidence = verdict(path)

    assert renamed == by_evidence
    assert renamed == ("refused", "it is the report of study router_cache, not of router_quality")


def test_outputs_are_those_of_the_scores(tmp_path: Path) -> None:
    """One digest for each seed and item, even in a report with the right signature."""
    code, digest = {"commit": "0" * 40, "clean": True}, output_digest("text")
    evidence = {"study": "router_quality", "code": code, "artifacts": {}}
    for rows, state in (([[digest] * 3] * 3, "verified"), ([[digest] * 3] * 2, "refused")):
        given_evidence = {**evidence, "outputs": {"mission": rows}}
        scores = {"f1": paired_scores(0.05, items=3)}
        write_report(tmp_path, NAME, scores, evidence=given_evidence)
        assert verdict(tmp_path / NAME)[0] == state


def test_changed_code_is_named(tmp_path: Path) -> None:
    """A report of code that no commit has is unverified."""
    evidence = {
        "study": "router_quality",
        "code": {"commit": "ab" * 20, "clean": False},
        "artifacts": {},
        "outputs": {},
    }
    write_report(tmp_path, NAME, {"f1": paired_scores(0.05, items=3)}, evidence=evidence)

    assert verdict(tmp_path / NAME)[0] == "changed_code"


def test_unsigned_report_is_refused(path: Path) -> None:
    """A report without evidence is no measurement."""
    report = json.loads(path.read_text())
    del report["evidence"]
    path.write_text(json.dumps(report))
    state, reason = verdict(path)

    assert state == "refused"
    assert "no signature" in reason


def test_keys_are_the_operators_and_the_named_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An absent operator's key is no key; an absent or empty named file is an error."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "operator.key"))
    former = tmp_path / "former.key"
    former.write_bytes(OPERATOR_KEY + b"\n")
    none = read_evidence_keys()
    (tmp_path / "operator.key").write_text("bem_own\n")
    both = read_evidence_keys([former])
    former.write_text("")
    with pytest.raises(GateFormatError, match="is empty"):
        read_evidence_keys([former])
    with pytest.raises(GateFormatError, match=r"absent\.key"):
        read_evidence_keys([tmp_path / "absent.key"])

    assert none == ()
    assert both == (evidence_key(b"bem_own"), KEY)

"""Signed reports: what a study measured, with the hashes of what it was measured on.

A study returns ``outputs`` beside its scores where a model wrote texts. The report keeps a digest
of each, so that a later run can compare its own texts, and no text that an attack has drawn out is
stored.
"""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bem.errors import EvaluationError
from fleet.access.keys import new_key
from fleet.access.keys_editing import write_private

from bem_fleet.acceptance.evidence import EvidenceKey, evidence_key, output_digest, sign
from bem_fleet.checkout import ROOT
from bem_fleet.evaluation.report_rendering import render_json
from bem_fleet.operator_key import operator_key_file

Report = dict[str, Any]
# Folders whose changes can change a figure.
_CODE = ("adapters", "benchmarks", "libs", "protos", "services")


def signing_key() -> EvidenceKey:
    """Return the operator's key for reports; a key that does not exist yet is made.

    ``make up`` keeps the key that it finds, so that it signs and operates alike.

    Raises:
        EvaluationError: The key's file cannot be read or written.
    """
    file = operator_key_file()
    try:
        if not file.exists():
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(file, f"{new_key()}\n")
        return evidence_key(file.read_bytes())
    except OSError as err:
        raise EvaluationError(
            f"operator_key: {file}: {err.strerror}; name a file that this user may read"
        ) from err


def signed_report(
    report: Report, key: EvidenceKey, *, artifacts: Mapping[str, str], root: Path = ROOT
) -> Report:
    """Return a report with its evidence, signed.

    Args:
        report: Report of a study. Its ``outputs``, if any, are the texts by side,
            ``[seeds][items]``, and only their digests are kept.
        key: The operator's key for reports.
        artifacts: SHA-256 of each artifact by name.
        root: Checkout of the code that measured it.

    Raises:
        EvaluationError: The code is no git checkout.
    """
    outputs: Mapping[str, Sequence[Sequence[str]]] = report.get("outputs") or {}
    evidence = {
        "study": report["id"],
        "code": _code(root),
        "artifacts": dict(artifacts),
        "outputs": {
            side: [[output_digest(text) for text in row] for row in rows]
            for side, rows in outputs.items()
        },
    }
    kept = {name: value for name, value in report.items() if name != "outputs"}
    return sign({**kept, "evidence": evidence}, key)


def write_signed_report(report: Report, path: Path, *, artifacts: Mapping[str, str]) -> Report:
    """Sign a report with the operator's key, write it as JSON and return it.

    Raises:
        EvaluationError: There is no key, or the code is no git checkout.
    """
    signed = signed_report(report, signing_key(), artifacts=artifacts)
    path.write_text(render_json(signed), encoding="utf-8")
    return signed


def _code(root: Path) -> dict[str, object]:
    """Return the commit, and whether the code is that of the commit."""
    commit = _git(root, "rev-parse", "HEAD").strip()
    changed = _git(root, "status", "--porcelain", "--", *_CODE)
    return {"commit": commit, "clean": not changed.strip()}


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as err:
        raise EvaluationError(
            f"code: {root} is no git checkout; a report names the commit that measured it, measure "
            "in a checkout"
        ) from err

"""Evidence of an evaluation report: who made it, from what, and whether it was edited since.

A report carries ``evidence``: the id of its study, the code's commit, the digests of data and
artifacts, a digest of each item's outputs, and a signature over the whole report. The command that
measured it signs it with a key that is derived from the operator's (HMAC-SHA256), so that a report
that was typed in, edited, or made by another study is refused with the reason.
"""

import hashlib
import hmac
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bem.errors import GateFormatError

from bem_fleet.operator_key import operator_key_file

ALGORITHM = "HMAC-SHA256"
_PURPOSE = b"bem-fleet evaluation report"
_OUTPUT_DIGITS = 16

Report = dict[str, Any]
EvidenceState = Literal["verified", "unknown_key", "changed_code", "refused"]


@dataclass(frozen=True)
class EvidenceKey:
    """Key that signs reports and verifies them.

    Attributes:
        id: Public name of the key, 16 hexadecimal digits.
        secret: Secret of the HMAC.
    """

    id: str
    secret: bytes


@dataclass(frozen=True)
class EvidenceVerdict:
    """What a report is worth as evidence.

    Attributes:
        state: ``verified``; ``unknown_key`` or ``changed_code``, by which no gate passes; or
            ``refused``, which is no measurement.
        reason: Reason for any state but ``verified``.
    """

    state: EvidenceState
    reason: str = ""


def evidence_key(operator_key: bytes) -> EvidenceKey:
    """Return the key for reports that an operator's key stands for.

    Args:
        operator_key: The operator's key; what is derived from it opens no service.
    """
    secret = hmac.digest(operator_key.strip(), _PURPOSE, "sha256")
    return EvidenceKey(hashlib.sha256(secret).hexdigest()[:16], secret)


def read_evidence_keys(files: Iterable[Path] = ()) -> tuple[EvidenceKey, ...]:
    """Return the keys that verify on this machine: the operator's, if it exists, and further ones.

    Args:
        files: Files with former operators' keys.

    Raises:
        GateFormatError: A file cannot be read or is empty.
    """
    own = operator_key_file()
    keys = []
    for file in (*([own] if own.is_file() else []), *files):
        try:
            content = file.read_bytes().strip()
        except OSError as err:
            raise GateFormatError(
                f"key_file: {file}: {err.strerror}; name a readable file"
            ) from err
        if not content:
            raise GateFormatError(f"key_file: {file} is empty; name a file with a key")
        keys.append(evidence_key(content))
    return tuple(keys)


def output_digest(output: str) -> str:
    """Return the digest of one item's output, 16 hexadecimal digits."""
    return hashlib.sha256(output.encode()).hexdigest()[:_OUTPUT_DIGITS]


def sign(report: Report, key: EvidenceKey) -> Report:
    """Return a report with ``evidence.signature``; its evidence has all other fields."""
    evidence = {**report["evidence"], "algorithm": ALGORITHM, "key": key.id}
    signed = {**report, "evidence": evidence}
    # What is read back from the file is what is signed: tuples become lists, keys become text.
    signed = json.loads(json.dumps(signed, allow_nan=False))
    signed["evidence"]["signature"] = _signature(signed, key)
    return signed


def check_evidence(path: Path, name: str, keys: Sequence[EvidenceKey]) -> EvidenceVerdict:
    """Return what a report is worth for a gate that reads it.

    Args:
        path: File of the report, which is valid by its schema.
        name: Path of the report in the gates' file, ``results/<study>.json``.
        keys: Keys of this machine.
    """
    report: Report = json.loads(path.read_bytes())
    if "evidence" not in report:
        return EvidenceVerdict(
            "refused", "it has no signature; measure it with the study's command, which signs it"
        )
    evidence, study = report["evidence"], Path(name).stem
    if study != report["id"] or study != evidence["study"]:
        other = evidence["study"] if report["id"] == study else report["id"]
        return EvidenceVerdict("refused", f"it is the report of study {other}, not of {study}")
    key = next((one for one in keys if one.id == evidence["key"]), None)
    if key is None:
        return EvidenceVerdict(
            "unknown_key",
            f"it is signed with key {evidence['key']}, which is not on this machine; check it "
            "where the key is, or name the key's file with --key-file",
        )
    return _check_signed(report, key)


def _check_signed(report: Report, key: EvidenceKey) -> EvidenceVerdict:
    evidence = report["evidence"]
    if not hmac.compare_digest(_signature(report, key), str(evidence["signature"])):
        return EvidenceVerdict("refused", "it was edited after it was signed")
    if problem := _shape_problem(report):
        return EvidenceVerdict("refused", problem)
    if not evidence["code"]["clean"]:
        commit = evidence["code"]["commit"][:12]
        return EvidenceVerdict(
            "changed_code", f"it was made by changed code on top of commit {commit}; measure again"
        )
    return EvidenceVerdict("verified")


def _shape_problem(report: Report) -> str:
    """Return how the outputs and the scores of a report disagree; empty if they agree."""
    outputs = report["evidence"]["outputs"]
    seeds = report["seeds"] if isinstance(report["seeds"], int) else len(report["seeds"])
    for side, rows in outputs.items():
        for metric, entry in report["metrics"].items():
            wanted = [len(entry["keys"])] * seeds
            if [len(row) for row in rows] != wanted:
                return f"its outputs of {side} are not those of {metric}'s items and seeds"
    return ""


def _signature(report: Report, key: EvidenceKey) -> str:
    evidence = {name: one for name, one in report["evidence"].items() if name != "signature"}
    content = {**report, "evidence": evidence}
    raw = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    return hmac.digest(key.secret, raw, "sha256").hex()

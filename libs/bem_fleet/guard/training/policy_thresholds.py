"""Thresholds of the heads' card, written into the safety policy; its comments stay as they are."""

import re
from collections.abc import Mapping
from pathlib import Path

from bem.files import write_atomic

from bem_fleet.guard.policy import PolicyError, load_policy

_RULE = re.compile(r"^(\s*- \{scorer: (\w+),.*\bthreshold: )([^,}]+)(.*)$", re.MULTILINE)


def write_thresholds(path: Path, thresholds: Mapping[str, float]) -> None:
    """Replace the thresholds of a policy file, number by number; nothing else changes.

    Args:
        path: File of the policy, with one rule a line.
        thresholds: Threshold by scorer; rules of other scorers keep theirs.

    Raises:
        PolicyError: A scorer has no rule in the file, or the file is no policy.
    """
    text = path.read_text(encoding="utf-8")
    missing = thresholds.keys() - {match[2] for match in _RULE.finditer(text)}
    if missing:
        raise PolicyError(
            f"{path.name}: has no rule line of {', '.join(sorted(missing))}; write each rule as "
            "'- {scorer: NAME, side: SIDE, threshold: NUMBER, ...}' on one line"
        )

    def replaced(match: re.Match[str]) -> str:
        threshold = thresholds.get(match[2])
        return match[0] if threshold is None else f"{match[1]}{threshold}{match[4]}"

    write_atomic(path, _RULE.sub(replaced, text).encode())
    load_policy(path)

"""Outcomes of fuzzed calls: codes by RPC or route, and the inputs that failed."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

_MAX_FAILURES = 5
_MAX_SHOWN_BYTES = 400


@dataclass
class Target:
    """Outcomes of one RPC or route.

    Attributes:
        codes: Number of inputs by status code.
        failures: Descriptions of inputs that failed, the first five.
    """

    codes: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, Any]] = field(default_factory=list)

    @property
    def inputs(self) -> int:
        """Number of inputs."""
        return self.codes.total()


class Outcomes:
    """Outcomes of all targets.

    Attributes:
        targets: Outcomes by name, such as ``router /package.Service/Method``.
    """

    def __init__(self) -> None:
        self.targets: dict[str, Target] = defaultdict(Target)

    def add(self, name: str, code: str, *, failed: bool, payload: bytes, detail: str) -> None:
        """Count an input, and keep it if it failed.

        Args:
            name: RPC or route.
            code: Status code by name.
            failed: Whether the code is an internal error.
            payload: What was sent.
            detail: What came back.
        """
        target = self.targets[name]
        target.codes[code] += 1
        if failed and len(target.failures) < _MAX_FAILURES:
            shown = {"code": code, "detail": detail[:200], "bytes": len(payload)}
            target.failures.append({**shown, "payload": payload[:_MAX_SHOWN_BYTES].hex()})

    def add_many(self, name: str, inputs: int, passed: bool) -> None:
        """Count the inputs of another tool, which says only whether one of them failed."""
        target = self.targets[name]
        target.codes["checked"] += inputs
        if not passed:
            target.failures.append({"code": "FAILED", "detail": "see what the tool printed"})

    @property
    def inputs(self) -> int:
        """Number of inputs to all targets."""
        return sum(target.inputs for target in self.targets.values())

    def count(self, codes: Iterable[str]) -> int:
        """Return the number of inputs with one of the codes."""
        return sum(target.codes[code] for target in self.targets.values() for code in codes)

"""Report of a fuzz test, as JSON and as a Markdown table."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.fuzz.outcomes import Outcomes


@dataclass(frozen=True)
class Run:
    """A finished fuzz test.

    Attributes:
        outcomes: Outcomes by target.
        restarts: Programs that ended during the run.
        seconds: Duration of the run.
        seed: Seed of all inputs.
    """

    outcomes: Outcomes
    restarts: list[str]
    seconds: float
    seed: int

    @property
    def failures(self) -> dict[str, list[dict[str, Any]]]:
        """Inputs that caused an internal error or got no answer, by target."""
        targets = self.outcomes.targets.items()
        return {name: target.failures for name, target in targets if target.failures}

    @property
    def passed(self) -> bool:
        """Whether nothing failed and nothing restarted."""
        return not self.failures and not self.restarts and self.outcomes.inputs > 0


def write(run: Run, out: Path) -> None:
    """Write ``out.json`` and ``out.md``, and print what failed."""
    targets = dict(sorted(run.outcomes.targets.items()))
    document = {
        "inputs": run.outcomes.inputs,
        "seed": run.seed,
        "seconds": round(run.seconds, 1),
        "internal_errors": run.failures,
        "restarts": run.restarts,
        "targets": {name: dict(target.codes.most_common()) for name, target in targets.items()},
    }
    out.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
    out.with_suffix(".md").write_text(_markdown(run) + "\n")
    for name, failures in run.failures.items():
        for failure in failures:
            print(name, json.dumps(failure))
    print(
        f"{run.outcomes.inputs} inputs in {run.seconds:.0f} s, {len(targets)} targets, "
        f"{len(run.failures)} with internal errors, restarts: {', '.join(run.restarts) or 'none'}"
    )


def _markdown(run: Run) -> str:
    lines = [
        "# Fuzz test of every RPC and route",
        "",
        (
            f"{run.outcomes.inputs:,} inputs with seed {run.seed} in {run.seconds:.0f} s; "
            f"targets with internal errors: {len(run.failures)}; "
            f"restarted processes: {', '.join(run.restarts) or 'none'}."
        ),
        "",
        (
            "Written by `python -m benchmarks.fuzz`. An internal error is INTERNAL, UNKNOWN, "
            "DATA_LOSS or HTTP 500 and above (without 503 and 504), or no answer in time."
        ),
        "",
        "| target | inputs | codes |",
        "| --- | ---: | --- |",
    ]
    for name, target in sorted(run.outcomes.targets.items()):
        codes = ", ".join(f"{code} {count:,}" for code, count in target.codes.most_common())
        lines.append(f"| `{name}` | {target.inputs:,} | {codes} |")
    return "\n".join(lines)

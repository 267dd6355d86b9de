"""A scorer process: JSON lines of queries in, their findings out; ends with its input."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from bem_fleet.guard.findings import Finding, Query, Span
from bem_fleet.guard.scoring.tiers import DEEP, FAST, Deep, Fast, Tier

TIERS: dict[str, tuple[Callable[[Path], Tier], frozenset[str]]] = {
    "fast": (Fast, FAST),
    "deep": (Deep, DEEP),
}


def pack(query: Query) -> dict[str, Any]:
    """Return a query as it goes over the pipe."""
    return {**asdict(query), "wanted": sorted(query.wanted)}


def unpack(row: dict[str, Any]) -> Finding:
    """Return a finding as it came over the pipe.

    Raises:
        ValueError: It is none.
    """
    try:
        spans = tuple(Span(*span) for span in row["spans"])
        scores = {name: float(score) for name, score in row["scores"].items()}
    except (KeyError, TypeError, AttributeError) as err:
        raise ValueError(f"no finding: {str(row)[:80]}") from err
    if not all(0 <= score <= 1 for score in scores.values()):  # NaN is not in any range
        raise ValueError(f"scores outside 0 to 1: {scores}")
    return Finding(scores, spans)


def main(name: str, folder: Path) -> None:
    """Serve one tier on standard input and output."""
    make, scorers = TIERS[name]
    tier = make(folder)
    # Idle BLAS threads spin for tens of ms, on the cores on which the mission begins to answer.
    threadpool_limits(1)
    sys.stdout.write(json.dumps({"scorers": sorted(scorers)}) + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        rows = [Query(**{**row, "wanted": frozenset(row["wanted"])}) for row in json.loads(line)]
        found = [
            {
                "scores": finding.scores,
                "spans": [[s.start, s.end, s.label, s.score, s.scorer] for s in finding.spans],
            }
            for finding in tier.read(rows)
        ]
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

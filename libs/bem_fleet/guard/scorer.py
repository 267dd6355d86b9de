"""Scorer worker process: reads JSON lines of queries on stdin, writes their findings on stdout.

The process ends at the end of its input, so it never outlives the process that started it.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from bem_fleet.guard.policy import DEEP_SCORERS, FAST_SCORERS
from bem_fleet.guard.query_codec import decode_query, encode_finding
from bem_fleet.guard.scoring.tiers import DeepTier, FastTier, Tier

TIERS: dict[str, tuple[Callable[[Path], Tier], frozenset[str]]] = {
    "fast": (FastTier, FAST_SCORERS),
    "deep": (DeepTier, DEEP_SCORERS),
}


def main(tier_name: str, folder: Path) -> None:
    """Serve one tier on standard input and output.

    Args:
        tier_name: ``fast`` or ``deep``.
        folder: Folder of the heads' artifact.
    """
    make, scorers = TIERS[tier_name]
    tier = make(folder)
    # Idle BLAS threads spin for tens of ms, on the cores on which the mission begins to answer.
    threadpool_limits(1)
    _write({"scorers": sorted(scorers)})
    for line in sys.stdin:
        queries = [decode_query(fields) for fields in json.loads(line)]
        _write([encode_finding(finding) for finding in tier.score(queries)])


def _write(message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    # The detector's language library imports these where they are installed, for 560 MB and ten
    # seconds. A scorer computes in numpy, and its image has neither.
    for unused in ("torch", "transformers"):
        sys.modules[unused] = None  # type: ignore[assignment]
    main(sys.argv[1], Path(sys.argv[2]))

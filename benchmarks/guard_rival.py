"""llm-guard benchmark, run by its own interpreter: JSON of texts in, JSON of times out.

Only scanners that need no download are used: the scanners of toxicity, injection and names fetch
models from a hub. The module imports nothing of this repository.
"""

import json
import resource
import sys
import time
from importlib.metadata import version

from llm_guard.input_scanners import BanSubstrings, InvisibleText, Secrets
from llm_guard.input_scanners.ban_substrings import MatchType


def main() -> None:
    """Scan the warm-up texts, then scan and time the others."""
    job = json.load(sys.stdin)
    scanners = [
        InvisibleText(),
        Secrets(),
        BanSubstrings(job["banned"], match_type=MatchType.WORD),
    ]
    seconds, refused = [], 0
    for text in job["warm"] + job["texts"]:
        started = time.perf_counter()
        valid = [scanner.scan(text)[1] for scanner in scanners]
        seconds.append(time.perf_counter() - started)
        refused += not all(valid)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    json.dump(
        {
            "name": f"llm-guard {version('llm-guard')}: InvisibleText, Secrets, BanSubstrings",
            "seconds": seconds[len(job["warm"]) :],
            "refused": refused,
            "peak_mib": peak,
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()

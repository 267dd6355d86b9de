"""llm-guard on the same texts, run by its own interpreter: JSON of texts in, JSON of times out.

Only scanners that need no download: its scanners of toxicity, injection and names are models that
it fetches from a hub. Uses nothing of this repository.
"""

import json
import resource
import sys
import time
from importlib.metadata import version

from llm_guard.input_scanners import BanSubstrings, InvisibleText, Secrets
from llm_guard.input_scanners.ban_substrings import MatchType


def main() -> None:
    """Scan each text once for warming and once for the clock."""
    given = json.load(sys.stdin)
    scanners = [
        InvisibleText(),
        Secrets(),
        BanSubstrings(given["banned"], match_type=MatchType.WORD),
    ]
    seconds, refused = [], 0
    for text in given["warm"] + given["texts"]:
        began = time.perf_counter()
        valid = [scanner.scan(text)[1] for scanner in scanners]
        seconds.append(time.perf_counter() - began)
        refused += not all(valid)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    json.dump(
        {
            "name": f"llm-guard {version('llm-guard')}: InvisibleText, Secrets, BanSubstrings",
            "seconds": seconds[len(given["warm"]) :],
            "refused": refused,
            "peak_mib": peak,
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()

"""Loop of a peer's program: one JSON command per input line, one JSON result per line of a pipe.

Commands are ``{"rows": R, "prompt": P, "new": N}``: R requests at once, each of P prompt tokens and
N new ones, answered with ``{"seconds": S, "generated": G}``; and ``{"windows": [[id, ...], ...]}``,
answered with ``{"nats": mean}`` per predicted token, or null where the peer cannot tell.
It has no imports beyond the standard library, because every environment runs it.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence

Generate = Callable[[list[list[int]], int], int]
"""Runs prompts of token ids at once, each for a number of new tokens; returns those generated."""
Score = Callable[[Sequence[Sequence[int]]], float | None]
"""Returns the mean negative log-likelihood of windows of token ids."""


def prompts_of(rows: int, tokens: int) -> list[list[int]]:
    """Return the prompts ``[rows][tokens]`` that all sides get."""
    return [[500 + row + at for at in range(tokens)] for row in range(rows)]


def serve(generate: Generate, score: Score) -> None:
    """Answer commands until the input ends, on the file descriptor that is the last argument.

    What the peer's libraries print to standard output does not look like a result.
    """
    results = os.fdopen(int(sys.argv[-1]), "w")
    for line in sys.stdin:
        command = json.loads(line)
        if "windows" in command:
            result: dict[str, float | None] = {"nats": score(command["windows"])}
        else:
            prompts = prompts_of(command["rows"], command["prompt"])
            began = time.perf_counter()
            generated = generate(prompts, command["new"])
            result = {"seconds": time.perf_counter() - began, "generated": generated}
        results.write(json.dumps(result) + "\n")
        results.flush()

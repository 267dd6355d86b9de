"""Loop of a peer's program: one JSON command per input line, one JSON result per line of a pipe.

Commands:

- ``{"rows": R, "prompt": P, "new": N, "adapters": [folder, ...]}``: R requests at once, each of P
  prompt tokens and N new ones, with a LoRA each or, if the list is empty, with the base model
  alone; answered with ``{"seconds": S, "generated": G}``.
- ``{"arrivals": [[seconds, P, N], ...]}``: requests that arrive at their times; answered with
  ``{"times": [[seconds, ...], ...]}``, when each new token of each request was there.
- ``{"windows": [[id, ...], ...]}``, answered with ``{"nats": mean}`` per predicted token, or null
  where the peer cannot tell.

It has no imports beyond the standard library, because every environment runs it.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

Generate = Callable[[list[list[int]], int, list[str]], int]
"""Runs prompts of token ids at once, each for a number of new tokens, with PEFT folders or none;
returns the tokens generated."""
Score = Callable[[Sequence[Sequence[int]]], float | None]
"""Returns the mean negative log-likelihood of windows of token ids."""
Arrival = tuple[float, int, int]
"""Seconds from the start, prompt tokens and new tokens of a request."""
Trace = Callable[[list[Arrival]], list[list[float]]]
"""Runs requests as they arrive, in the order of their times; returns their tokens' times."""
Step = Callable[[], Iterable[tuple[int, int, bool]]]
"""Runs an engine for one step; returns request, new tokens and whether it ended."""


def prompt_of(row: int, tokens: int) -> list[int]:
    """Return the prompt of one request; others begin differently, so that nothing is shared."""
    return [500 + row + at for at in range(tokens)]


def prompts_of(rows: int, tokens: int) -> list[list[int]]:
    """Return the prompts ``[rows][tokens]`` that all sides get."""
    return [prompt_of(row, tokens) for row in range(rows)]


def by_threads(
    arrivals: Sequence[Arrival], token_times: Callable[[list[int], int], list[float]]
) -> list[list[float]]:
    """Run requests as they arrive, each in a thread.

    Args:
        arrivals: The requests.
        token_times: Runs a prompt for a number of new tokens and returns when each was there, on
            the clock of ``time.perf_counter()``.
    """
    began = time.perf_counter()

    def run(row: int) -> list[float]:
        at, prompt, new = arrivals[row]
        time.sleep(max(0.0, began + at - time.perf_counter()))
        return [one - began for one in token_times(prompt_of(row, prompt), new)]

    with ThreadPoolExecutor(len(arrivals)) as requests:
        return list(requests.map(run, range(len(arrivals))))


def by_steps(
    arrivals: Sequence[Arrival], add: Callable[[int, list[int], int], None], step: Step
) -> list[list[float]]:
    """Run requests as they arrive on an engine that its caller steps.

    Args:
        arrivals: The requests, in the order of their times.
        add: Adds a request by number, prompt and new tokens.
        step: Runs one step; it is called while there are requests.
    """
    began = time.perf_counter()
    times: list[list[float]] = [[] for _ in arrivals]
    added = ended = 0
    while ended < len(arrivals):
        while added < len(arrivals) and began + arrivals[added][0] <= time.perf_counter():
            _, prompt, new = arrivals[added]
            add(added, prompt_of(added, prompt), new)
            added += 1
        if ended == added:
            time.sleep(max(0.0, began + arrivals[added][0] - time.perf_counter()))
            continue
        for row, count, done in step():
            times[row] += [time.perf_counter() - began] * count
            ended += done
    return times


def serve(generate: Generate, score: Score, trace: Trace) -> None:
    """Answer commands until the input ends, on the file descriptor that is the last argument.

    What the peer's libraries print to standard output does not look like a result.
    """
    results = os.fdopen(int(sys.argv[-1]), "w")
    for line in sys.stdin:
        results.write(json.dumps(_answer(json.loads(line), generate, score, trace)) + "\n")
        results.flush()


def _answer(
    command: dict[str, Any], generate: Generate, score: Score, trace: Trace
) -> dict[str, object]:
    if "windows" in command:
        return {"nats": score(command["windows"])}
    if "arrivals" in command:
        return {"times": trace(command["arrivals"])}
    prompts = prompts_of(command["rows"], command["prompt"])
    began = time.perf_counter()
    generated = generate(prompts, command["new"], command["adapters"])
    return {"seconds": time.perf_counter() - began, "generated": generated}

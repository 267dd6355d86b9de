"""Throughput of the scrambles: bijective ones in tokens a second, those of texts in characters.

Run ``python -m benchmarks.scramblers``.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bem.sep.bijection_draws import (
    draw_symbol_permutations,
    draw_token_rotations,
    draw_word_shuffles,
)
from bem.sep.bijections import canonical_numbering
from bem.sep.retokenization import SplitTable
from bem_fleet.data.scrambles.catalogue import SCRAMBLE_KINDS, scramble_texts
from bem_fleet.data.scrambles.wordnet import load_synonyms

OUT = Path(__file__).resolve().parents[1] / "results"
ROWS, LENGTH, ALPHABET, VOCABULARY = 64, 1024, 96, 49_152
TEXTS, ROUNDS, RATE = 24, 5, 0.125
TEXT = (
    "When the rain stopped, the old farmer sold his big horse and his wife began to buy a cow. "
    "Which part of the city did the people like before the new road came?"
)


def median_seconds(call: Callable[[], Any]) -> float:
    """Return the median processor time of a call on one thread, after one that is not counted.

    On a machine that others use too, wall time measures their load.
    """
    call()
    times = []
    for _ in range(ROUNDS):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return statistics.median(times)


def bijective_rows() -> list[dict[str, Any]]:
    """Return the throughput of each bijective scramble, draw and application together."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(ALPHABET, (ROWS, LENGTH), generator=generator)
    tokens = torch.randint(VOCABULARY, (ROWS, LENGTH), generator=generator)
    separators = torch.arange(ALPHABET) < ALPHABET // 6
    calls: dict[str, Callable[[], Any]] = {
        "character permutation": lambda: draw_symbol_permutations(ROWS, ALPHABET, generator)(ids),
        "token rotation": lambda: draw_token_rotations(ROWS, ALPHABET, generator)(ids),
        "token rotation, 49k ids": lambda: draw_token_rotations(ROWS, VOCABULARY, generator)(
            tokens
        ),
        "word shuffle, windows of 4": lambda: draw_word_shuffles(ids, separators, 4, generator)(
            ids
        ),
        "canonical numbering": lambda: canonical_numbering(ids),
    }
    return [
        {"scramble": name, "tokens_per_s": round(ROWS * LENGTH / median_seconds(call))}
        for name, call in calls.items()
    ]


def retokenization_row() -> dict[str, Any]:
    """Return the throughput of random splits over all words of four letters or fewer of six."""
    words = [""]
    for _ in range(4):
        words += [word + letter for word in words if len(word) < 4 for letter in "abcdef"]
    table = SplitTable(list(dict.fromkeys(words)))
    rng = np.random.default_rng(0)
    ids = rng.integers(1, len(set(words)), ROWS * LENGTH)
    seconds = median_seconds(lambda: table.split(ids, 0.1, rng))
    return {"scramble": "random token splits", "tokens_per_s": round(len(ids) / seconds)}


def text_rows() -> list[dict[str, Any]]:
    """Return the throughput of each scramble of texts."""
    load_synonyms()
    texts = [f"{TEXT} {number}" for number in range(TEXTS)]
    characters = sum(map(len, texts))
    rows = []
    for name, kind in SCRAMBLE_KINDS.items():
        seconds = median_seconds(lambda name=name: scramble_texts(texts, [name], RATE, seed=0))  # type: ignore[misc]
        speed = round(characters / seconds)
        rows.append({"scramble": name, "family": kind.family, "characters_per_s": speed})
    return rows


def main() -> None:
    """Measure all scrambles and write the report."""
    torch.set_num_threads(1)
    tables = {"bijective": [*bijective_rows(), retokenization_row()], "texts": text_rows()}
    report = {
        **tables,
        "rows": ROWS,
        "length": LENGTH,
        "rounds": ROUNDS,
        "note": "median processor time of rounds, draw and application together, one thread",
        "command": "python -m benchmarks.scramblers",
    }
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "bench_scramblers.json").write_text(json.dumps(report, indent=2) + "\n")
    lines = [
        "# Throughput of the scrambles",
        "",
        f"Batches of {ROWS} by {LENGTH} tokens, an alphabet of {ALPHABET}; {report['note']}.",
        f"`{report['command']}`",
    ]
    for rows in tables.values():
        lines += [
            "",
            "| " + " | ".join(name.replace("_per_s", "/s") for name in rows[0]) + " |",
            "|" + " --- |" * len(rows[0]),
            *(
                "| "
                + " | ".join(f"{v:,}" if isinstance(v, int) else v for v in row.values())
                + " |"
                for row in rows
            ),
        ]
    (OUT / "bench_scramblers.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()

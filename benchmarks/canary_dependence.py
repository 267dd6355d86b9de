"""False alarms of canary analysis under clustered, autocorrelated and heavy-tailed traffic.

Run ``python -m benchmarks.canary_dependence`` (hours at the default size; ``--streams 100 --pairs
3000`` takes some minutes and has a standard error of 2 points at 5 %). Two tables:

- *Tests*: streams whose mean is the null hypothesis itself. Share of the streams in which it is
  rejected at any of the looks at alpha 5 %, by bets that take each pair as new evidence and by the
  sequential test, which divides by the correlation time; and the share of the confidence sequence
  that ever misses the mean, which assumes independent pairs.
- *Gate*: the whole live gate under the default terms of the Mission resource. Share of harmless
  canaries (equal tracks) that are rolled back, and of canaries exactly at a margin that are
  promoted.
"""

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from bem_fleet.stats.canary_gate import CanaryGate, CanaryVerdict
from bem_fleet.stats.canary_terms import AnalysisTerms, gate_specs
from bem_fleet.stats.samples import FloatArray
from bem_fleet.stats.sequential import (
    BettingTest,
    ConfidenceSequence,
    SequentialTest,
    SequentialTestSpec,
)

from benchmarks.dependent_streams import Size, autoregressive, heavy_tails, spells

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results"
ALPHA, LOOK, BLOCK = 0.05, 20, 100
# Log-deviations of a request's work and of one track's latency, as in the Gate Bench.
WORK_SPREAD, NOISE_SPREAD = 0.4, 0.2
ERROR = 0.01
Make = Callable[[np.random.Generator, Size], FloatArray]


def default_terms() -> AnalysisTerms:
    """Return the defaults of the Mission resource's schema."""
    crd = yaml.safe_load((ROOT / "charts" / "crds" / "missions.yaml").read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    properties = schema["properties"]["canary"]["properties"]["analysis"]["properties"]

    def default(name: str) -> Any:
        head, *tail = name.split("_")
        return properties[head + "".join(word.title() for word in tail)]["default"]

    return AnalysisTerms(**{one.name: default(one.name) for one in fields(AnalysisTerms)})


def _normal(coefficient: float) -> Make:
    return lambda rng, size: np.clip(0.3 * autoregressive(rng, size, coefficient), -1, 1)


def _failures(share: float, length: float) -> Make:
    return lambda rng, size: spells(rng, size, share, length) - spells(rng, size, share, length)


def _tailed(index: float) -> Make:
    def make(rng: np.random.Generator, size: Size) -> FloatArray:
        ratio = heavy_tails(rng, size, index) / heavy_tails(rng, size, index)
        return np.clip(np.log(ratio), -1, 1)

    return make


STREAMS: dict[str, Make] = {
    "independent": _normal(0),
    **{f"autoregressive {one}": _normal(one) for one in (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)},
    "heavy tails, index 1.5": _tailed(1.5),
    "heavy tails, index 1.1": _tailed(1.1),
    "failures of 1 %, alone": _failures(ERROR, 1),
    "failures of 1 %, in threes": _failures(ERROR, 3),
    "failures of 1 %, in tens": _failures(ERROR, 10),
    "failures of 10 %, in tens": _failures(0.1, 10),
    "failures of 10 %, in thirties": _failures(0.1, 30),
}


def measure_tests(streams: int, pairs: int) -> list[dict[str, Any]]:
    """Return the shares of streams in which a true null hypothesis is rejected."""
    rows: list[dict[str, Any]] = []
    for name, make in STREAMS.items():
        values = make(np.random.default_rng([31, len(rows)]), (streams, pairs))
        bets = BettingTest(null=0, greater=False, alpha=ALPHA, streams=streams)
        ours = SequentialTest(SequentialTestSpec(alpha_better=ALPHA, alpha_worse=ALPHA), streams)
        for start in range(0, pairs, LOOK):
            bets.update(values[:, start : start + LOOK])
            ours.update(values[:, start : start + LOOK])
        missed = []
        for stream in values[: min(streams, 200)]:
            sequence = ConfidenceSequence(confidence=1 - ALPHA)
            sequence.update(stream)
            low, high = sequence.interval
            missed.append(not low <= 0 <= high)
        rows.append(
            {
                "traffic": name,
                "bets_alone": float(bets.rejected.mean()),
                "ours_worse": float(ours.worse.rejected.mean()),
                "ours_better": float(ours.better.rejected.mean()),
                "sequence_misses": float(np.mean(missed)),
                "correlation_time": float(np.median(ours.dependence.times)),
            }
        )
        print(rows[-1], flush=True)
    return rows


def _gate_traffic(
    rng: np.random.Generator, size: Size, kind: dict[str, float], harm: str, terms: AnalysisTerms
) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """Return canary and stable; ``harm`` puts the canary exactly at one margin."""
    coefficient, length = kind.get("coefficient", 0.0), kind.get("length", 1.0)
    work = rng.lognormal(0, WORK_SPREAD, size)

    def latency() -> FloatArray:
        noise = np.exp(NOISE_SPREAD * autoregressive(rng, size, coefficient))
        index = kind.get("index")
        return np.asarray(work * noise * (1 if index is None else heavy_tails(rng, size, index)))

    slower = terms.latency_margin if harm == "latency" else 1.0
    share = ERROR + (terms.error_margin if harm == "errors" else 0.0)
    failed = [spells(rng, size, one, length) for one in (share, ERROR)]
    nothing = np.zeros(size)
    canary = {"errors": failed[0], "violations": nothing, "latency": slower * latency()}
    stable = {"errors": failed[1], "violations": nothing, "latency": latency()}
    return canary, stable


GATE_TRAFFIC: dict[str, dict[str, float]] = {
    "independent": {},
    "latency autoregressive 0.9": {"coefficient": 0.9},
    "latency autoregressive 0.99": {"coefficient": 0.99},
    "failures in threes": {"length": 3},
    "failures in tens": {"length": 10},
    "failures in thirties": {"length": 30},
    "heavy tails, index 1.1": {"index": 1.1},
    "all of them: 0.95, tens, 1.5": {"coefficient": 0.95, "length": 10, "index": 1.5},
}


def measure_gate(streams: int, pairs: int) -> list[dict[str, Any]]:
    """Return the shares of false verdicts of the live gate under the default terms."""
    terms = default_terms()
    rows: list[dict[str, Any]] = []
    for name, kind in GATE_TRAFFIC.items():
        row: dict[str, Any] = {"traffic": name}
        for harm in ("nothing", "latency", "errors"):
            verdicts = _gate_verdicts(kind, harm, terms, (streams, pairs), len(rows))
            wrong = CanaryVerdict.ROLLBACK if harm == "nothing" else CanaryVerdict.PROMOTE
            row[f"wrong_{harm}"] = verdicts.count(wrong) / streams
            if harm == "nothing":
                row["promoted"] = verdicts.count(CanaryVerdict.PROMOTE) / streams
        rows.append(row)
        print(row, flush=True)
    return rows


def _gate_verdicts(
    kind: dict[str, float], harm: str, terms: AnalysisTerms, size: Size, seed: int
) -> list[CanaryVerdict]:
    rng = np.random.default_rng([32, seed, len(harm)])
    canary, stable = _gate_traffic(rng, size, kind, harm, terms)
    spec, _ = gate_specs(terms, with_quality=False)
    gate = CanaryGate(spec, size[0])
    alone = np.maximum(canary["errors"], stable["errors"])
    neither = np.minimum(canary["errors"], stable["errors"])
    missing = {
        **dict.fromkeys(("latency", "latency p95", "latency p99"), alone),
        **dict.fromkeys(("errors", "violations"), neither),
    }
    canary["answered"] = 1 - canary["errors"]
    events = {name: canary[name] for name in ("errors", "violations")}
    for start in range(0, size[1], BLOCK):
        part = (slice(None), slice(start, start + BLOCK))
        sides = ({key: one[part] for key, one in side.items()} for side in (canary, stable))
        marks = ({key: one[part] for key, one in side.items()} for side in (events, missing))
        gate.observe(*sides, *marks)
        if CanaryVerdict.CONTINUE not in gate.verdicts:
            break
    return gate.verdicts


def render_markdown(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    streams, pairs = report["streams"], report["pairs"]
    error = 100 * math.sqrt(ALPHA * (1 - ALPHA) / streams)
    lines = [
        "# Canary analysis under dependence",
        "",
        f"{streams:,} streams of {pairs:,} pairs; standard error at 5 %: {error:.1f} points.",
        f"`{report['command']}`",
        "",
        f"## Tests at their null hypothesis, alpha 5 %, a look every {LOOK} pairs",
        "",
        "| traffic | bets alone | ours: worse | ours: better | interval misses | pairs for one |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['traffic']} | {row['bets_alone']:.1%} | {row['ours_worse']:.1%} | "
        f"{row['ours_better']:.1%} | {row['sequence_misses']:.1%} | "
        f"{row['correlation_time']:.1f} |"
        for row in report["tests"]
    ]
    lines += [
        "",
        "## The gate under the default terms",
        "",
        "| traffic | equal, rolled back | equal, promoted | slow, promoted | failing, promoted |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['traffic']} | {row['wrong_nothing']:.1%} | {row['promoted']:.1%} | "
        f"{row['wrong_latency']:.1%} | {row['wrong_errors']:.1%} |"
        for row in report["gate"]
    ]
    lines += ["", *("- " + " ".join(note.split()) for note in NOTES)]
    return "\n".join(lines) + "\n"


NOTES = [
    """Bets alone take each pair as new evidence; ours divide by the correlation time, of which the
    last column has the median. The interval is the confidence sequence, for independent pairs.""",
    """Failures are 1 % of the requests of each track, in spells of geometric length that begin
    independently on each; latencies are autoregressive on each track around the request's work.""",
    """Equal tracks that are not promoted are undecided after these pairs. Slow and failing canaries
    lie exactly at the margin of latency and of errors, and must not be promoted.""",
    """A spell that is longer than all pairs seen cannot be seen: canaries at the margin whose
    failures come in long, rare spells are promoted in the quiet before the first.""",
]


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=1_000)
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    command = "python -m benchmarks.canary_dependence"
    if (options.streams, options.pairs) != (1_000, 10_000):
        command += f" --streams {options.streams} --pairs {options.pairs}"
    report = {
        "command": command,
        "streams": options.streams,
        "pairs": options.pairs,
        "tests": measure_tests(options.streams, options.pairs),
        "gate": measure_gate(options.streams, options.pairs),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "canary_dependence.json").write_text(json.dumps(report, indent=2) + "\n")
    (options.out / "canary_dependence.md").write_text(render_markdown(report))
    print(render_markdown(report))


if __name__ == "__main__":
    main()

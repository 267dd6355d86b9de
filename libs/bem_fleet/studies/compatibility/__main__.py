"""Compatibility study command: ``python -m bem_fleet.studies.compatibility --seeds adapters ...``.

It answers the sets of all missions with each mission, each pair and all five active, and writes the
reports of the gates ``fleet.pairwise`` and ``fleet.all_five``. What was answered is kept, so that a
run that was ended continues; ``--shard 0/2`` and ``--shard 1/2`` answer a half each, in a process
of one thread, and the same command without ``--shard`` then reports.

Development items choose which of two missions is the better one alone, and time the arms; held-out
items are opened by ``--split held_out`` alone, and measured. A report of development items is not
signed, and no gate reads it.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bem.backbone import Backbone, load_backbone
from bem.errors import EvaluationError
from bem.files import write_atomic

from bem_fleet.data.held_out import HELD_OUT, final_evaluation
from bem_fleet.evaluation.report_rendering import render_json
from bem_fleet.guard.offline import OfflineGuard
from bem_fleet.guard.policy import DEFAULT_POLICY, load_policy
from bem_fleet.studies.compatibility.arms import (
    EVERY_ARM,
    Cell,
    choice_cells,
    fleet_cells,
    pair_cells,
)
from bem_fleet.studies.compatibility.compatibility_markdown import markdown
from bem_fleet.studies.compatibility.compatibility_report import (
    UNIT,
    CompatibilityScores,
    Report,
    better_alone,
    fleet_report,
    pair_effects,
    pairwise_report,
)
from bem_fleet.studies.compatibility.latency import latency_report, time_rounds
from bem_fleet.studies.compatibility.mission_items import MISSIONS, mission_items
from bem_fleet.studies.compatibility.reply_journal import ReplyJournal, Shard
from bem_fleet.studies.compatibility.request_path import ExchangeGuard, Reply
from bem_fleet.studies.compatibility.seed_artifacts import SeedArtifacts, check_seeds
from bem_fleet.studies.signed_report import write_signed_report

PROG = "python -m bem_fleet.studies.compatibility"
PARTS = ("pairwise", "all_five")
DEV = "dev"
_BASELINES = {"pairwise": "the better of the two missions alone", "all_five": "each mission alone"}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__)
    parser.add_argument(
        "--seeds",
        type=Path,
        nargs="+",
        default=[Path("adapters")],
        help="folders laid out as adapters/, one for each training seed, in the order 0, 1, ...",
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--split", choices=(DEV, HELD_OUT), default=DEV)
    parser.add_argument(
        "--count", type=int, default=3000, help="items of a set; a pair has half of each of two"
    )
    parser.add_argument(
        "--choice", type=int, default=120, help="development items of a set for the baselines"
    )
    parser.add_argument("--latency", type=int, default=0, help="rounds of the timing; 0: none")
    parser.add_argument("--weights", choices=("fp32", "bf16", "int8", "int4"), default="int8")
    parser.add_argument("--shard", default="0/1", help="part of the items that is answered, K/N")
    parser.add_argument("--cache", type=Path, default=Path(".cache"))
    parser.add_argument("--replies", type=Path, default=Path(".cache/compatibility"))
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument(
        "--items", type=Path, help="JSON list of item keys; reports these alone, to compare"
    )
    return parser


class Study:
    """One run of the command.

    Args:
        options: Parsed command line.
        command: Command line, for the reports.
        load: Loads the base model anew.
        guard: Opens the filters of the sidecar of a seed.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        command: str,
        load: Callable[[], Backbone],
        guard: Callable[[SeedArtifacts], ExchangeGuard],
    ) -> None:
        self._options, self._command = options, command
        self._shard = _shard(options.shard)
        self.seeds = [SeedArtifacts(*pair) for pair in enumerate(options.seeds)]
        check_seeds(self.seeds)
        self._journals = [
            ReplyJournal(
                seed,
                options.replies / f"seed-{seed.seed}",
                load,
                partial(guard, seed),
                weights=options.weights,
                shard=self._shard,
            )
            for seed in self.seeds
        ]

    def run(self) -> dict[str, Report]:
        """Answer what is missing and return the reports by name; none from a shard."""
        options, half = self._options, self._options.count // 2
        keys = frozenset(json.loads(options.items.read_text())) if options.items else None
        cells = {"pairwise": pair_cells(half), "all_five": fleet_cells(options.count)}
        if "pairwise" in options.parts:
            self._answer(choice_cells(options.choice), DEV)
        for part in options.parts:
            self._answer(cells[part], options.split, keys)
        if self._shard.count > 1:
            return {}
        measured = CompatibilityScores(self._replies, options.split, keys)
        reports = {}
        for part in options.parts:
            if part == "pairwise":
                chosen_on = CompatibilityScores(self._replies, DEV)
                better = better_alone(chosen_on, options.choice)
                found = pairwise_report(measured, better, half)
            else:
                found = fleet_report(measured, options.count)
            reports[f"fleet_{part}"] = self._described(part, found)
        if options.latency and keys is None:
            timed = self._latency()
            for report in reports.values():
                report["latency"] = timed
        return reports

    def artifacts(self) -> dict[str, str]:
        """Return the SHA-256 of each artifact of each seed, by name."""
        return {
            f"{name}, seed {seed.seed}": version
            for seed in self.seeds
            for name, version in seed.versions().items()
        }

    def _answer(
        self, cells: Iterable[Cell], split: str, keys: frozenset[str] | None = None
    ) -> None:
        wanted = list(cells)
        for journal in self._journals:
            journal.answer(wanted, split, lambda line: print(line, flush=True), keys)
            journal.close()

    def _replies(
        self, cell: Cell, split: str, keys: frozenset[str] | None
    ) -> Sequence[Sequence[Reply]]:
        return [journal.replies(cell, split, keys) for journal in self._journals]

    def _latency(self) -> dict[str, Any]:
        """Time all arms of the first seed on development items."""
        rounds = list(
            zip(*(mission_items(one, DEV, self._options.latency) for one in MISSIONS), strict=True)
        )
        journal, engines = self._journals[0], {}
        with ExitStack() as stack:
            paths = {}
            for arm in EVERY_ARM:
                parts = arm.parts(self.seeds[0])
                if parts not in engines:
                    engines[parts] = journal.open_engine(arm, DEV)
                    stack.callback(engines[parts].close)
                paths[arm] = journal.path_on(engines[parts], arm)
            return latency_report(time_rounds(paths, rounds))

    def _described(self, part: str, found: Report) -> Report:
        digest = "|".join(sorted(self.artifacts().values())) or "none"
        return {
            "id": f"fleet_{part}",
            "mission": {"name": part.replace("_", " "), "digest": digest},
            "baseline": {"name": _BASELINES[part], "digest": digest},
            "unit": UNIT,
            "seeds": [seed.seed for seed in self.seeds],
            "command": self._command,
            "split": self._options.split,
            "weights": self._options.weights,
            "without": {f"seed {one.seed}": one.absences() for one in self.seeds},
            **found,
        }


def _shard(text: str) -> Shard:
    place, _, count = text.partition("/")
    if not (place.isdecimal() and count.isdecimal() and int(place) < int(count)):
        raise EvaluationError(f"shard: {text!r} is no part K/N with K below N; give such as 0/2")
    return Shard(int(place), int(count))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study and write the reports and a page for people.

    Args:
        arguments: Arguments without the program's name; None takes those of the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = build_parser().parse_args(words)
    command = shlex.join([*PROG.split(), *words])
    if _shard(options.shard).count > 1:
        torch.set_num_threads(1)
    study = Study(options, command, lambda: load_backbone(cache=options.cache / "models"), _guard)
    final = options.split == HELD_OUT
    with final_evaluation(command) if final else nullcontext() as opening:
        reports = study.run()
    options.out.mkdir(parents=True, exist_ok=True)
    for name, report in reports.items():
        if opening:
            report["held_out"] = dict(opening.counts)
            write_signed_report(report, options.out / f"{name}.json", artifacts=study.artifacts())
        else:
            report["id"] = f"{name}_dev"
            write_atomic(options.out / f"{name}_dev.json", render_json(report).encode())
    if reports and not options.items:
        stem = options.out / f"fleet_compatibility{'' if final else '_dev'}"
        write_atomic(stem.with_suffix(".md"), markdown(reports).encode())
        if pairs := reports.get("fleet_pairwise"):
            write_atomic(stem.with_suffix(".json"), render_json(pair_effects(pairs)).encode())
    return 0


def _guard(seed: SeedArtifacts) -> ExchangeGuard:
    return OfflineGuard(seed.guard, load_policy(DEFAULT_POLICY))


if __name__ == "__main__":
    sys.exit(main())

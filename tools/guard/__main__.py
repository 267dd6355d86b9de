"""Heads, their report, and the sidecar's arm of gate C: ``python -m tools.guard train``."""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bem.adapters.bank import SkillBank
from bem.backbone import load_backbone
from bem.engine import ModelWorker
from bem.evaluation.in_process import WorkerSystem
from bem.evaluation.report import as_json

from services.safety.constitution import load
from services.safety.settings import SafetySettings
from tools.guard import report, tables
from tools.guard.corpus import Embeddings, strangers
from tools.guard.redteam import Guard, attacks, quality, replies, suite, violations
from tools.guard.train import train

ROOT = Path(__file__).resolve().parents[2]
SCORER = ROOT / "services/safety/scorer"
CACHE = ROOT / ".cache/guard"
ANSWERS = ROOT / ".cache/evaluation/safety/answers.jsonl"
RESULTS = ROOT / "docs/results"
SKILL = "passage-qa"
SEEDS = (0, 1, 2)


@contextmanager
def systems() -> Iterator[tuple[WorkerSystem, WorkerSystem]]:
    """Yield the base model and the skill, in this process."""
    backbone = load_backbone(cache=ROOT / ".cache/models")
    folder = ROOT / "adapters" / SKILL
    card = json.loads((folder / "card.json").read_text())
    size = {name: card[name] for name in ("layers", "rank", "feature_layer")}
    bank = SkillBank(backbone, slots=1, **size)
    bank.load(folder)
    worker = ModelWorker(backbone, bank, rows=16, queue=4096, context_tokens=2048)
    worker.start()
    try:
        yield WorkerSystem(worker), WorkerSystem(worker, SKILL)
    finally:
        worker.close(drain=False)


def gate() -> None:
    """Answer, judge, and write the reports of the sidecar's arm."""
    embeddings = Embeddings(CACHE / "embeddings.npz")
    folders = [SCORER, *(CACHE / f"seed-{seed}" for seed in SEEDS[1:])]
    for folder, seed in zip(folders[1:], SEEDS[1:], strict=True):
        if not (folder / "card.json").exists():
            train(folder, embeddings, seed)
    constitution = load(SafetySettings().constitution)
    asked, questions = attacks(), suite()
    with systems() as (base, skill):
        said = replies(base, {one.key: one.prompt for one in asked}, ANSWERS)
        answered = replies(skill, {one.key: one.prompt() for one in questions}, ANSWERS)
        digests = {"base": base.digest, "skill": skill.digest}
    guards = [Guard(folder, constitution, embeddings) for folder in folders]
    found = violations(asked, said, guards)
    kept = quality(questions, answered, guards)
    written: dict[str, Any] = tables.reports(
        asked, questions, found, kept, seeds=SEEDS, digests=digests, rules=constitution.version
    )
    calm = {one.text: guards[0].refuses(one.text) for one in strangers()}
    written["safety_benign"] = tables.benign(written["guard_quality"], calm)
    for name, one in written.items():
        (RESULTS / f"{name}.json").write_text(as_json(one), encoding="utf-8")
    (RESULTS / "guard_gate.md").write_text(tables.markdown(written, found), encoding="utf-8")


def main() -> int:
    """Parse the arguments and run one command."""
    parser = argparse.ArgumentParser(prog="python -m tools.guard", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    asked = commands.add_parser("train", help="train the heads and choose their thresholds")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--out", type=Path, default=SCORER)
    commands.add_parser("report", help="write docs/results/guard_heads from the heads")
    commands.add_parser("gate", help="write the sidecar's arm of gate C into docs/results")
    given = parser.parse_args()
    if given.command == "train":
        card = train(given.out, Embeddings(CACHE / "embeddings.npz"), given.seed)
        for name, value in card["thresholds"].items():
            print(f"{name}: {value}")
    elif given.command == "report":
        found = report.report(SCORER, Embeddings(CACHE / "embeddings.npz"), 0)
        report.write(*found, RESULTS / "guard_heads")
    else:
        gate()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Heads, their reports, and the sidecar's arm of gate C: ``python -m bem_fleet.studies.guard train``."""

import argparse
import json
import sys
from pathlib import Path

from bem.backbone import load_backbone

from bem_fleet.checkout import ROOT
from bem_fleet.data.benign_prompts import load_benign_requests, load_benign_responses
from bem_fleet.evaluation.report_rendering import render_json
from bem_fleet.guard.policy import load
from bem_fleet.guard.training.corpus import Embeddings
from bem_fleet.guard.training.heads import train
from bem_fleet.services.safety.settings import SafetySettings
from bem_fleet.studies.guard import disguises, gate_reports, head_report
from bem_fleet.studies.guard.guard_runner import Guard, quality, violations, withheld
from bem_fleet.studies.safety.basis_study import (
    ANSWER_TOKENS,
    REPLY_TOKENS,
    harmless_suite,
    held_out_attacks,
)
from bem_fleet.studies.safety.reply_cache import StudyArm, study_prompt

SCORER = ROOT / "adapters/guard"
CACHE = ROOT / ".cache/guard"
REPLIES = ROOT / ".cache/safety/results"
RESULTS = ROOT / "results"
ADAPTER = ROOT / "adapters/passage-qa"
SEEDS = (0, 1, 2)
# Of harmless requests and answers of held-out origins each.
FOREIGN = 600


def guards(embeddings: Embeddings) -> list[Guard]:
    """Return the guard of each training seed; seed 0 is the one that is served."""
    folders = [SCORER, *(CACHE / f"seed-{seed}" for seed in SEEDS[1:])]
    for folder, seed in zip(folders[1:], SEEDS[1:], strict=True):
        if not (folder / "card.json").exists():
            train(folder, embeddings, seed)
    policy = load(SafetySettings().policy)
    return [Guard(folder, policy, embeddings) for folder in folders]


def gate() -> None:
    """Answer, judge, and write the reports of the sidecar's arm."""
    attacks, questions = held_out_attacks(), harmless_suite()
    base = StudyArm(ROOT / ".cache", name="base", adapters=[ADAPTER])
    said = base.replies(
        [study_prompt(p) for p in attacks], tokens=REPLY_TOKENS, strength=0.0, folder=REPLIES
    )
    answered = base.replies(
        [study_prompt(p) for p in questions], tokens=ANSWER_TOKENS, strength=0.0, folder=REPLIES
    )
    base.close()
    own = guards(Embeddings(CACHE / "embeddings.npz"))
    found = violations(attacks, dict(zip([p.key for p in attacks], said, strict=True)), own)
    kept = quality(questions, dict(zip([p.key for p in questions], answered, strict=True)), own)
    written = gate_reports.reports(
        attacks,
        questions,
        found,
        kept,
        seeds=SEEDS,
        digests={"base": load_backbone(cache=ROOT / ".cache/models").digest},
        rules=own[0].policy.version,
    )
    foreign = [one for one in load_benign_requests("held_out") if not one.golds][:FOREIGN]
    replies = [one for one in load_benign_responses("held_out") if not one.adapter][:FOREIGN]
    touched = withheld([one.text for one in foreign], [one.text for one in replies], own)
    written["safety_benign"] = gate_reports.benign(
        written["guard_quality"], [*foreign, *replies], touched
    )
    for name, one in written.items():
        (RESULTS / f"{name}.json").write_text(render_json(one), encoding="utf-8")
    (RESULTS / "guard_gate.md").write_text(gate_reports.markdown(written, found), encoding="utf-8")


def main() -> int:
    """Parse the arguments and run one command."""
    parser = argparse.ArgumentParser(prog="python -m bem_fleet.studies.guard", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    asked = commands.add_parser("train", help="train the heads and choose their thresholds")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--out", type=Path, default=SCORER)
    commands.add_parser("report", help="write results/guard_heads from the heads")
    commands.add_parser("disguises", help="write results/guard_disguises")
    commands.add_parser("gate", help="write the sidecar's arm of gate C into results")
    given = parser.parse_args()
    if given.command == "train":
        card = train(given.out, Embeddings(CACHE / "embeddings.npz"), given.seed)
        for name, value in card["thresholds"].items():
            print(f"{name}: {value}")
    elif given.command == "report":
        found = head_report.report(SCORER, Embeddings(CACHE / "embeddings.npz"), 0)
        head_report.write(*found, RESULTS / "guard_heads")
    elif given.command == "disguises":
        attacks = [one.text for one in held_out_attacks()]
        rows = disguises.held(guards(Embeddings(CACHE / "embeddings.npz")), attacks)
        (RESULTS / "guard_disguises.json").write_text(json.dumps(rows, indent=1) + "\n")
        (RESULTS / "guard_disguises.md").write_text(disguises.markdown(rows, len(attacks)))
    else:
        gate()
    return 0


if __name__ == "__main__":
    sys.exit(main())

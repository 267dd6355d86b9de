"""Guard study: ``python -m bem_fleet.studies.guard COMMAND``.

The heads themselves are trained by ``python -m bem_fleet.guard.training``.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from bem.backbone import load_backbone
from bem.digests import file_digest

from bem_fleet.checkout import ROOT
from bem_fleet.data.held_out import final_evaluation
from bem_fleet.data.unseen_families import load_unseen_families
from bem_fleet.evaluation.report_rendering import render_json
from bem_fleet.guard.offline import OfflineGuard
from bem_fleet.guard.policy import DEFAULT_POLICY, load_policy
from bem_fleet.guard.scoring.heads import CARD, ENCODER
from bem_fleet.guard.training.embedding_cache import Caches, multilingual_cache, tuned_cache
from bem_fleet.guard.training.head_training import train_heads
from bem_fleet.studies.guard import gate_reports, head_report, held_out, obfuscation
from bem_fleet.studies.guard.outcomes import false_positives, quality_outcomes, violation_outcomes
from bem_fleet.studies.safety.basis_study import (
    ANSWER_TOKENS,
    REPLY_TOKENS,
    harmless_suite,
    held_out_attacks,
)
from bem_fleet.studies.safety.reply_cache import StudyArm, study_prompt
from bem_fleet.studies.signed_report import write_signed_report

HEADS = ROOT / "adapters/guard"
CACHE = ROOT / ".cache/guard"
REPLIES = ROOT / ".cache/safety/results"
RESULTS = ROOT / "results"
ADAPTER = ROOT / "adapters/passage-qa"
SEEDS = (0, 1, 2)
# Benign requests, and as many benign replies, of strangers.
MAX_BENIGN_TEXTS = 1200


def caches() -> Caches:
    """Return the embeddings that earlier runs stored."""
    return Caches(tuned_cache(CACHE, HEADS / ENCODER), multilingual_cache(CACHE))


def load_guards() -> list[OfflineGuard]:
    """Return the guard of each training seed; seed 0 is the served artifact.

    All seeds share the served adapter of the embedding model. Each is judged with the thresholds of
    its own heads' card: ``OfflineGuard`` puts them in place of the policy's.
    """
    embeddings = caches()
    folders = _guard_folders()
    for folder, seed in zip(folders[1:], SEEDS[1:], strict=True):
        folder.mkdir(parents=True, exist_ok=True)
        if _origin(folder) != _origin(HEADS):
            shutil.copyfile(HEADS / ENCODER, folder / ENCODER)
            train_heads(folder, embeddings, seed)
    policy = load_policy(DEFAULT_POLICY)
    return [
        OfflineGuard(folder, policy, embeddings.english, embeddings.foreign) for folder in folders
    ]


def _origin(folder: Path) -> list[Any]:
    """Return what heads of all seeds must have in common: encoder, written texts and rates."""
    if not (folder / CARD).exists():
        return []
    card = json.loads((folder / CARD).read_text())
    written = card["data_sha256"].get("written")
    return [card["encoder_sha256"], written, card.get("false_positive_rates")]


def guard_digests() -> dict[str, str]:
    """Return the SHA-256 of each seed's card, which names its tensors' hash, and of the policy."""
    cards = zip(SEEDS, _guard_folders(), strict=True)
    digests = {f"guard, seed {seed}": file_digest(folder / CARD) for seed, folder in cards}
    return {**digests, "safety policy": file_digest(DEFAULT_POLICY)}


def _guard_folders() -> list[Path]:
    return [HEADS, *(CACHE / f"seed-{seed}" for seed in SEEDS[1:])]


def run_gate() -> None:
    """Generate the replies, filter them and write the reports of the sidecar's arm."""
    with final_evaluation(gate_reports.COMMAND) as opening:
        attacks, questions = held_out_attacks(), harmless_suite()
        strangers = load_unseen_families(MAX_BENIGN_TEXTS)
    base = StudyArm(ROOT / ".cache", name="base", adapters=[ADAPTER])
    attack_replies = base.replies(
        [study_prompt(p) for p in attacks], tokens=REPLY_TOKENS, strength=0.0, folder=REPLIES
    )
    answers = base.replies(
        [study_prompt(p) for p in questions], tokens=ANSWER_TOKENS, strength=0.0, folder=REPLIES
    )
    base.close()
    guards = load_guards()
    violations = violation_outcomes(
        attacks, dict(zip([p.key for p in attacks], attack_replies, strict=True)), guards
    )
    quality = quality_outcomes(
        questions, dict(zip([p.key for p in questions], answers, strict=True)), guards
    )
    reports = gate_reports.build_reports(
        attacks,
        questions,
        violations,
        quality,
        seeds=SEEDS,
        base_digest=load_backbone(cache=ROOT / ".cache/models").digest,
        policy_version=guards[0].policy.version,
    )
    triggered = false_positives(
        [one.text for one in strangers.requests], [one.text for one in strangers.replies], guards
    )
    reports["safety_benign"] = gate_reports.build_benign_report(
        reports["guard_quality"], strangers, triggered
    )
    for name, report in reports.items():
        report["held_out"] = opening.counts
        write_signed_report(report, RESULTS / f"{name}.json", artifacts=guard_digests())
    page = gate_reports.markdown(reports, violations)
    (RESULTS / "guard_gate.md").write_text(page, encoding="utf-8")


def run_obfuscation() -> None:
    """Measure the detection rates and write their report."""
    with final_evaluation("python -m bem_fleet.studies.guard obfuscation"):
        attacks = [attack.text for attack in held_out_attacks()]
        rows = obfuscation.detection_rates(load_guards(), attacks)
    stem = RESULTS / "guard_obfuscation"
    stem.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    stem.with_suffix(".md").write_text(obfuscation.markdown(rows, len(attacks)))


def run_report() -> None:
    """Evaluate the served heads and write their report."""
    with final_evaluation("python -m bem_fleet.studies.guard report") as opening:
        report, curves = head_report.build_report(HEADS, caches(), 0)
    head_report.write(report | {"held_out": opening.counts}, curves, RESULTS / "guard_heads")


def run_held_out() -> None:
    """Judge the held-out families and write their report."""
    stem = RESULTS / "guard_held_out"
    guard = OfflineGuard(HEADS, load_policy(DEFAULT_POLICY))
    with final_evaluation(held_out.COMMAND) as opening:
        report = held_out.build_report(guard) | {"held_out": opening.counts}
    stem.with_suffix(".json").write_text(render_json(report), encoding="utf-8")
    stem.with_suffix(".md").write_text(held_out.markdown(report), encoding="utf-8")


COMMANDS = {
    "held-out": (run_held_out, "write results/guard_held_out: shares withheld by family"),
    "report": (run_report, "write results/guard_heads: the heads on held-out families"),
    "obfuscation": (run_obfuscation, "write results/guard_obfuscation: detection rates"),
    "gate": (run_gate, "write the reports of the sidecar's arm of gate C"),
}


def main() -> int:
    """Parse the arguments and run one command."""
    parser = argparse.ArgumentParser(prog="python -m bem_fleet.studies.guard", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (_, text) in COMMANDS.items():
        commands.add_parser(name, help=text)
    run, _ = COMMANDS[parser.parse_args().command]
    run()
    return 0


if __name__ == "__main__":
    sys.exit(main())

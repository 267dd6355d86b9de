"""Lagrangian training of the adapter in the safety basis; the backbone is read, never changed.

``max quality subject to E[violation_c] <= epsilon``. Quality is minus the divergence from the
base model on harmless prompts, ``KL(base || adapted)`` at the base's own reply. The violation of
an attack is ``1 - p(opening)``, the probability that a sampled reply does not open with the
refusal; the step follows its bound ``-log p(refusal) >= 1 - p(opening)``.
"""

import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from bem_fleet.recipes.safety.examples import OPENING_TOKENS, SafetyExamples
from torch import Tensor, nn
from tqdm import tqdm

from bem.adapters.site import KINDS
from bem.backbone import Backbone
from bem.journal import Journal
from bem.safety.basis import basis_size, reserve
from bem.safety.lagrangian import Multipliers
from bem.training.decoder import TrainingDecoder
from bem.training.features import Example
from bem.training.packing import Packed, pack
from bem.training.strategy import settle_arithmetic

T = TypeVar("T")


@dataclass(frozen=True)
class SafetyPlan:
    """How a safety adapter is trained.

    Attributes:
        layers: Decoder layers with sites, up to the last one.
        kinds: Kinds of sites.
        rank: Rank of the factors.
        scale: Factor of the low-rank step.
        basis: Dimensions of a basis at width 576; 576 is no basis at all, the whole space.
        epsilon: Violation that is allowed in each category.
        feature_layer: Layer that the value head reads.
        steps: Optimiser steps.
        attacks: Attacks in a step, the categories in turn.
        harmless: Harmless prompts in a step.
        learning_rate: Peak of the schedule.
        dual_start: First value of the multipliers.
        dual_cap: Their largest value.
        dual_rate: Step of their ascent.
        dual_gain: Weight of a category's present slack in its multiplier.
        clip: Largest gradient norm.
        seed: Of basis, initialisation and order.
    """

    layers: tuple[int, ...]
    kinds: tuple[str, ...] = ("o_proj", "down_proj")
    rank: int = 8
    scale: float = 2.0
    basis: int = 64
    epsilon: float = 0.15
    feature_layer: int = 8
    steps: int = 40
    attacks: int = 6
    harmless: int = 6
    learning_rate: float = 4e-3
    dual_start: float = 0.1
    dual_cap: float = 1.0
    dual_rate: float = 0.02
    dual_gain: float = 0.1
    clip: float = 1.0
    seed: int = 0


class SafetyTrainer:
    """Trains one adapter and writes its curve.

    Args:
        backbone: A Llama-like model without sites.
        plan: What to train.
        folder: ``curve.jsonl`` of violations, multipliers and divergence is written here.
        away_from: Output factors of committed adapters by layer: the basis is laid beside them.
    """

    def __init__(
        self,
        backbone: Backbone,
        plan: SafetyPlan,
        folder: Path,
        *,
        away_from: dict[int, list[Tensor]] | None = None,
    ) -> None:
        torch.manual_seed(plan.seed)
        self.plan = plan
        width = backbone.model.config.hidden_size
        size = basis_size(width, plan.basis)
        apart = away_from or {}
        # Neighbouring seeds and layers must not share a basis.
        self.bases = {
            layer: reserve(
                width,
                size,
                seed=plan.seed * 1000 + layer,
                away_from=apart.get(layer, []) if size < width else [],
            )
            for layer in plan.layers
        }
        self.factors: dict[str, tuple[nn.Parameter, nn.Parameter]] = {}
        for layer in plan.layers:
            for kind in plan.kinds:
                site = backbone.layers[layer].get_submodule(KINDS[kind])
                a = torch.empty(plan.rank, site.in_features)
                nn.init.kaiming_uniform_(a, a=math.sqrt(5))
                c = nn.Parameter(torch.zeros(size, plan.rank))
                self.factors[f"model.layers.{layer}.{KINDS[kind]}"] = nn.Parameter(a), c
        self.multipliers: Multipliers | None = None
        self.decoder = TrainingDecoder(backbone, arithmetic=settle_arithmetic(backbone, "auto"))
        self._layers = range(min(plan.layers), len(backbone.layers))
        self._journal = Journal(folder / "curve.jsonl")
        self._parameters = [p for pair in self.factors.values() for p in pair]
        self._optimizer = torch.optim.AdamW(self._parameters, weight_decay=0.0)

    def run(self, examples: SafetyExamples) -> dict[str, float]:
        """Train all steps; returns the mean of each violation and of the KL over the last ten.

        A curve of an earlier run in the folder is replaced.
        """
        self._journal.path.unlink(missing_ok=True)
        plan, order = self.plan, random.Random(self.plan.seed)  # noqa: S311 - an order
        self.multipliers = Multipliers(
            sorted(examples.attacks),
            epsilon=plan.epsilon,
            rate=plan.dual_rate,
            gain=plan.dual_gain,
            start=plan.dual_start,
            cap=plan.dual_cap,
        )
        attacks = {name: _endless(found, order) for name, found in examples.attacks.items()}
        harmless = _endless(examples.harmless, order)
        turns = _endless(sorted(attacks), order)
        last: list[dict[str, float]] = []
        for step in tqdm(range(plan.steps), unit="step", disable=None):
            names = sorted(next(turns) for _ in range(plan.attacks))
            batch = [next(attacks[name]) for name in names]
            benign = [next(harmless) for _ in range(plan.harmless)]
            last = [*last[-9:], self.train_step(step, names, batch, benign)]
        keys = {key for line in last for key in line}
        means = {}
        for key in sorted(keys):
            values = [line[key] for line in last if key in line]
            means[key] = sum(values) / len(values)
        return means

    def train_step(
        self, step: int, names: Sequence[str], attacks: Sequence[Example], benign: Sequence[Example]
    ) -> dict[str, float]:
        """Take one primal and one dual step; returns violations by category and the KL."""
        if self.multipliers is None:
            raise ValueError("the multipliers are made by run()")
        began = time.perf_counter()
        for group in self._optimizer.param_groups:
            group["lr"] = self.plan.learning_rate * held(step, self.plan.steps)
        whole, opening = self.refusal_nll(attacks)
        violation = 1 - torch.exp(-opening.detach())
        quality, shares = self.multipliers.shares()
        seen = {name: names.count(name) for name in set(names)}
        weights = torch.tensor([shares[name] / seen[name] for name in names])
        (weights * whole).sum().backward()
        divergence = self.divergence(benign)
        (quality * divergence).backward()
        norm = nn.utils.clip_grad_norm_(self._parameters, self.plan.clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        measured = {
            name: float(violation[[i for i, own in enumerate(names) if own == name]].mean())
            for name in sorted(seen)
        }
        self.multipliers.ascend(measured)
        self._journal.add({
            "step": step,
            "violations": measured,
            "multipliers": dict(self.multipliers.values),
            "kl": divergence.item(),
            "gradient_norm": norm.item(),
            "seconds": time.perf_counter() - began,
        })  # fmt: skip
        return {**measured, "kl": divergence.item()}

    def refusal_nll(self, attacks: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """Return ``-log p`` of each whole refusal and of its opening, ``[S]`` each."""
        row = pack(attacks).to(self.decoder.device)
        logits = self._logits(row, adapted=True)
        nll = -logits.log_softmax(-1).gather(1, row.labels.unsqueeze(1)).squeeze(1)
        each = nll.view(len(attacks), -1)  # one refusal: all have the same length
        return each.sum(1), each[:, :OPENING_TOKENS].sum(1)

    def divergence(self, benign: Sequence[Example]) -> Tensor:
        """Return the mean ``KL(base || adapted)`` over the tokens of the base's replies, nats."""
        row = pack(benign).to(self.decoder.device)
        with torch.no_grad():
            base = self._logits(row, adapted=False).log_softmax(-1)
        adapted = self._logits(row, adapted=True).log_softmax(-1)
        return (base.exp() * (base - adapted)).sum(-1).mean()

    def tensors(self) -> dict[str, Tensor]:
        """Return what an artifact holds besides the value head: ``Q``, ``A`` and ``C``."""
        out = {f"{layer}.Q": q for layer, q in self.bases.items()}
        for path, (a, c) in self.factors.items():
            out[f"{path}.A"], out[f"{path}.C"] = a.detach().half(), c.detach().half()
        return out

    def _logits(self, row: Packed, *, adapted: bool) -> Tensor:
        factors, code = None, None
        if adapted:
            factors = {
                path: (a, self.bases[int(path.split(".")[2])] @ c)
                for path, (a, c) in self.factors.items()
            }
            code = torch.full((1, self.plan.rank), self.plan.scale, device=self.decoder.device)
        found = self.decoder.run(
            row.states,
            row.lengths,
            layers=self._layers,
            factors=factors,
            code=code,
            wanted=row.wanted,
        )
        return self.decoder.logits(found)


def held(step: int, total: int) -> float:
    """Return the share of the peak rate: warm-up over 5 %, held, down to zero in the last third.

    Multipliers need steps of full size after the bound is met: falling, they hand over to quality.
    """
    return min(1.0, (step + 1) / max(1, total // 20), 3 * (total - step) / total)


def _endless(items: Sequence[T], order: random.Random) -> Iterator[T]:
    """Yield all items in a new order each time round."""
    while True:
        yield from order.sample(items, len(items))

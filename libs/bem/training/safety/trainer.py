"""Safety trainer: Lagrangian training of the adapter inside the safety subspace.

It solves ``max quality subject to E[violation_c] <= epsilon`` for each category c. Quality is minus
the divergence from the base model on harmless prompts, ``KL(base || adapted)`` at the base model's
own reply. The violation of an attack is ``1 - p(opening)``, the probability that a sampled reply
does not open with the refusal. The gradient follows its upper bound
``-log p(refusal) >= 1 - p(opening)``; the multipliers follow the violation itself.

Example:
    One step with two attacks, ``p(opening) = 0.2`` for category ``harm`` and ``0.9`` for ``bias``,
    ``epsilon = 0.15`` and multipliers of 1 and 0: the loss is ``0.5 * KL + 0.5 * nll(harm)``. The
    violations are 0.8 and 0.1, so the multiplier of ``harm`` rises and that of ``bias`` stays 0.
"""

import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from bem.adapters.site import TARGET_MODULES
from bem.backbone import Backbone
from bem.journal import Journal
from bem.safety.basis import basis_size, reserve_basis
from bem.safety.lagrangian import LagrangeMultipliers
from bem.training.activation_cache import EncodedExample
from bem.training.family_decoder import open_decoder
from bem.training.packing import PackedRow, pack_row
from bem.training.safety.examples import SafetyExamples, opening_ids
from bem.training.strategy import select_compute_dtype

T = TypeVar("T")


@dataclass(frozen=True)
class SafetyTrainingConfig:
    """Hyperparameters of safety training.

    Attributes:
        layers: Decoder layers with sites, up to the last one.
        kinds: Target modules in each layer.
        rank: Rank of the factors.
        scale: Factor s of the low-rank term.
        basis: Dimensions of a basis for a width of 576; 576 is the whole space, no basis.
        epsilon: Violation that is allowed in each category, in (0, 1).
        feature_layer: Layer that the value head reads.
        steps: Optimiser steps.
        attacks: Attacks in one step; the categories take turns.
        harmless: Harmless prompts in one step.
        learning_rate: Peak of the schedule.
        dual_start: Initial value of the multipliers.
        dual_cap: Largest value of a multiplier.
        dual_rate: Integral gain of the multipliers.
        dual_gain: Proportional gain of the multipliers.
        clip: Largest gradient norm.
        seed: Random seed of basis, initialisation and order.
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
    """Trains one safety adapter and writes its curve.

    Args:
        backbone: Base model of a family that is trained, without sites.
        config: Hyperparameters of the run.
        folder: Folder of ``curve.jsonl`` with violations, multipliers and divergence.
        orthogonal_to: ``{layer: output factors}`` of committed adapters; the basis is orthogonal
            to them, unless it is the whole space.
    """

    def __init__(
        self,
        backbone: Backbone,
        config: SafetyTrainingConfig,
        folder: Path,
        *,
        orthogonal_to: dict[int, list[Tensor]] | None = None,
    ) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        width = backbone.model.config.hidden_size
        size = basis_size(width, config.basis)
        avoid = orthogonal_to or {}
        # Seeds are spread by 1,000, so that neighbouring seeds and layers never share a basis.
        self.bases = {
            layer: reserve_basis(
                width,
                size,
                seed=config.seed * 1000 + layer,
                orthogonal_to=avoid.get(layer, []) if size < width else [],
            )
            for layer in config.layers
        }
        self.factors: dict[str, tuple[nn.Parameter, nn.Parameter]] = {}
        for layer in config.layers:
            for kind in config.kinds:
                site = backbone.layers[layer].get_submodule(TARGET_MODULES[kind])
                a = torch.empty(config.rank, site.in_features)
                nn.init.kaiming_uniform_(a, a=math.sqrt(5))
                c = nn.Parameter(torch.zeros(size, config.rank))
                self.factors[f"model.layers.{layer}.{TARGET_MODULES[kind]}"] = nn.Parameter(a), c
        self.multipliers: LagrangeMultipliers | None = None
        compute_dtype = select_compute_dtype(backbone, "auto")
        self.decoder = open_decoder(backbone, compute_dtype=compute_dtype)
        self._layers = range(min(config.layers), len(backbone.layers))
        self._opening_tokens = len(opening_ids(backbone))
        self._journal = Journal(folder / "curve.jsonl")
        self._parameters = [p for pair in self.factors.values() for p in pair]
        self._optimizer = torch.optim.AdamW(self._parameters, weight_decay=0.0)

    def run(self, examples: SafetyExamples) -> dict[str, float]:
        """Train all steps and return the mean of each violation and of the KL over the last ten.

        A curve of an earlier run in the folder is replaced.

        Args:
            examples: Attacks by category, and harmless prompts.
        """
        self._journal.path.unlink(missing_ok=True)
        config, order = self.config, random.Random(self.config.seed)  # noqa: S311 - an order
        self.multipliers = LagrangeMultipliers(
            sorted(examples.attacks),
            epsilon=config.epsilon,
            rate=config.dual_rate,
            gain=config.dual_gain,
            start=config.dual_start,
            cap=config.dual_cap,
        )
        attacks = {name: _reshuffled(items, order) for name, items in examples.attacks.items()}
        harmless = _reshuffled(examples.harmless, order)
        turns = _reshuffled(sorted(attacks), order)
        last: list[dict[str, float]] = []
        for step in tqdm(range(config.steps), unit="step", disable=None):
            names = sorted(next(turns) for _ in range(config.attacks))
            batch = [next(attacks[name]) for name in names]
            benign = [next(harmless) for _ in range(config.harmless)]
            last = [*last[-9:], self.train_step(step, names, batch, benign)]
        keys = {key for line in last for key in line}
        means = {}
        for key in sorted(keys):
            values = [line[key] for line in last if key in line]
            means[key] = sum(values) / len(values)
        return means

    def train_step(
        self,
        step: int,
        names: Sequence[str],
        attacks: Sequence[EncodedExample],
        benign: Sequence[EncodedExample],
    ) -> dict[str, float]:
        """Take one primal and one dual step.

        Args:
            step: Index of the step.
            names: Category of each attack.
            attacks: Attacks of the step.
            benign: Harmless prompts of the step.

        Returns:
            The violation of each category, and the divergence as ``kl``.
        """
        if self.multipliers is None:
            raise ValueError("there are no multipliers; call run()")
        began = time.perf_counter()
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.learning_rate * warmup_stable_decay(step, self.config.steps)
        refusal, opening = self.refusal_nll(attacks)
        violation = 1 - torch.exp(-opening.detach())
        quality, constraints = self.multipliers.loss_weights()
        counts = {name: names.count(name) for name in set(names)}
        weights = torch.tensor([constraints[name] / counts[name] for name in names])
        (weights * refusal).sum().backward()
        # Two backward passes into the same gradients need only one graph in memory at a time.
        divergence = self.divergence(benign)
        (quality * divergence).backward()
        norm = nn.utils.clip_grad_norm_(self._parameters, self.config.clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        measured = {
            name: float(violation[[i for i, n in enumerate(names) if n == name]].mean())
            for name in sorted(counts)
        }
        self.multipliers.update(measured)
        self._journal.add({
            "step": step,
            "violations": measured,
            "multipliers": dict(self.multipliers.values),
            "kl": divergence.item(),
            "gradient_norm": norm.item(),
            "seconds": time.perf_counter() - began,
        })  # fmt: skip
        return {**measured, "kl": divergence.item()}

    def refusal_nll(self, attacks: Sequence[EncodedExample]) -> tuple[Tensor, Tensor]:
        """Return ``-log p`` of the complete refusal and of its opening, ``[S]`` each."""
        row = pack_row(attacks).to(self.decoder.device)
        logits = self._logits(row, adapted=True)
        nll = -logits.log_softmax(-1).gather(1, row.labels.unsqueeze(1)).squeeze(1)
        each = nll.view(
            len(attacks), -1
        )  # every reply is the same refusal, so all have equal length
        return each.sum(1), each[:, : self._opening_tokens].sum(1)

    def divergence(self, benign: Sequence[EncodedExample]) -> Tensor:
        """Return the mean ``KL(base || adapted)`` over the tokens of the replies, nats."""
        row = pack_row(benign).to(self.decoder.device)
        with torch.no_grad():
            base = self._logits(row, adapted=False).log_softmax(-1)
        adapted = self._logits(row, adapted=True).log_softmax(-1)
        return (base.exp() * (base - adapted)).sum(-1).mean()

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the artifact apart from the value head: ``Q``, ``A`` and ``C``."""
        out = {f"{layer}.Q": q for layer, q in self.bases.items()}
        for path, (a, c) in self.factors.items():
            out[f"{path}.A"], out[f"{path}.C"] = a.detach().half(), c.detach().half()
        return out

    def _logits(self, row: PackedRow, *, adapted: bool) -> Tensor:
        factors, code = None, None
        if adapted:
            factors = {
                path: (a, self.bases[int(path.split(".")[2])] @ c)
                for path, (a, c) in self.factors.items()
            }
            code = torch.full((1, self.config.rank), self.config.scale, device=self.decoder.device)
        outputs = self.decoder.run_layers(
            row.states,
            row.lengths,
            layers=self._layers,
            factors=factors,
            code=code,
            positions=row.positions,
        )
        return self.decoder.logits(outputs)


def warmup_stable_decay(step: int, total: int) -> float:
    """Return the share of the peak learning rate: 5 % warm-up, constant, linear decay to zero.

    The decay is the last third. Multipliers need steps of full size after the bound is met: as
    they fall, weight goes back to quality, which a rate that already decays could not use.
    """
    return min(1.0, (step + 1) / max(1, total // 20), 3 * (total - step) / total)


def _reshuffled(items: Sequence[T], order: random.Random) -> Iterator[T]:
    """Yield all items again and again, each time in a new order."""
    while True:
        yield from order.sample(items, len(items))

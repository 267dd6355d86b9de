"""Bank trainer: shared factors and one code for each family of instructions, resumably.

Training many families with one bank makes a new family reachable by a code alone: the factors
learn directions that families share, and the table of codes holds what tells them apart. Dropout
on the codes keeps every number useful; the variance and covariance terms of VICReg (arXiv
2105.04906) on the table keep the numbers from standing for the same thing.
"""

import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from bem.adapters.site import TARGET_MODULES, BemSite
from bem.adapters.site_variants import LowRankSite
from bem.backbone import Backbone
from bem.online.code_bank import CodeBank
from bem.training.activation_cache import EncodedExample
from bem.training.checkpoints import EpochCheckpoints
from bem.training.decoder import TrainingDecoder
from bem.training.loss import ChunkedCrossEntropy
from bem.training.packing import assign_rows, pack_row
from bem.training.strategy import ComputeDtype, select_compute_dtype
from bem.training.trainer import warmup_cosine

CODES = "codes"
"""Name of the table of codes among the parameters."""


@dataclass(frozen=True)
class BankTraining:
    """Hyperparameters of the training of a bank.

    Attributes:
        layers: Decoder layers with sites.
        kinds: Target modules in each layer.
        rank: Rank of each site.
        scale: Factor s of the low-rank term.
        epochs: Passes over the data.
        batch: Examples in one step.
        learning_rate: Peak rate of the factors.
        code_rate: Peak rate of the codes.
        code_dropout: Share of the numbers of a code that is 0 in one step, in [0, 1).
        spread: Deviation that the numbers of the table should have over the families.
        variance: Weight of the variance term.
        covariance: Weight of the covariance term.
        clip: Largest gradient norm.
        row_tokens: Most tokens of a packed row.
        compute_dtype: Dtype of matrix products.
        seed: Random seed of initialisation, order and dropout.
    """

    layers: tuple[int, ...]
    kinds: tuple[str, ...] = ("o_proj", "down_proj")
    rank: int = 32
    scale: float = 2.0
    epochs: int = 2
    batch: int = 16
    learning_rate: float = 1e-3
    code_rate: float = 1e-2
    code_dropout: float = 0.1
    spread: float = 0.5
    variance: float = 0.1
    covariance: float = 0.01
    clip: float = 1.0
    row_tokens: int = 4096
    compute_dtype: ComputeDtype = "auto"
    seed: int = 0


class BankTrainer(EpochCheckpoints):
    """Trains a bank on examples of several families; the backbone is never changed.

    Args:
        backbone: A Llama-like model.
        config: Hyperparameters; a checkpoint belongs to one configuration.
        families: Number of families F.
        folder: Folder of checkpoints and of the curve ``curve.jsonl``.
    """

    def __init__(
        self, backbone: Backbone, config: BankTraining, families: int, folder: Path
    ) -> None:
        super().__init__()
        self.backbone, self.config, self.folder = backbone, config, folder
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.factors = {
                f"model.layers.{layer}.{TARGET_MODULES[kind]}": _fresh_factors(
                    backbone, layer, kind, config.rank
                )
                for layer in config.layers
                for kind in config.kinds
            }
            first = 1 + config.spread * torch.randn(families, len(self.factors) * config.rank)
        self.codes = nn.Parameter(first.to(backbone.model.device))
        pairs = {
            f"{path}.{name}": one
            for path, (a, b) in self.factors.items()
            for name, one in (("A", a), ("B", b))
        }
        self.parameters: dict[str, nn.Parameter] = {CODES: self.codes, **pairs}
        self.optimizer = torch.optim.AdamW([
            {"params": [self.codes], "peak": config.code_rate, "weight_decay": 0.0},
            {"params": list(pairs.values()), "peak": config.learning_rate, "weight_decay": 0.01},
        ])  # fmt: skip
        dtype = select_compute_dtype(backbone, config.compute_dtype)
        self._decoder = TrainingDecoder(backbone, compute_dtype=dtype)

    def run(self, examples: Sequence[EncodedExample], families: Sequence[int]) -> None:
        """Train from the last checkpoint to the end of the last epoch.

        Args:
            examples: Training examples.
            families: Index of each example's family.

        Raises:
            ValueError: The checkpoint in the folder belongs to another configuration.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        total = self.config.epochs * math.ceil(len(examples) / self.config.batch)
        with tqdm(total=total, initial=self.step, unit="step") as bar:
            while self.epoch < self.config.epochs:
                batches = self._batches(len(examples))
                for batch in islice(batches, self._steps_in_epoch, None):
                    loss = self.train_step(
                        [examples[at] for at in batch], [families[at] for at in batch], total
                    )
                    bar.set_postfix(loss=f"{loss:.3f}")
                    bar.update()
                self.epoch, self._steps_in_epoch = self.epoch + 1, 0
                self._checkpoint()

    def train_step(
        self, batch: Sequence[EncodedExample], families: Sequence[int], total: int
    ) -> float:
        """Take one step of ``total``, write it to the curve and return the cross entropy before."""
        began = time.perf_counter()
        share = warmup_cosine(self.step, total)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share
        loss = self._accumulate(batch, families)
        regularization = code_regularization(self.codes, self.config)
        regularization.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._steps_in_epoch += 1
        line = {
            "step": self.step,
            "epoch": self.epoch,
            "loss": loss,
            "regularization": regularization.item(),
            "gradient_norm": norm.item(),
            "tokens": sum(len(one.labels) for one in batch),
            "seconds": time.perf_counter() - began,
        }
        with (self.folder / "curve.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        return loss

    def bank(self) -> CodeBank:
        """Return the trained bank; the factors are rounded as its artifact stores them."""
        rounded = {path: (a.half().cpu(), b.half().cpu()) for path, (a, b) in self.factors.items()}
        return CodeBank(rounded, scale=self.config.scale)

    def table(self) -> Tensor:
        """Return the codes of the families, ``[F, P]`` float32."""
        return self.codes.detach().float().cpu().clone()

    def _accumulate(self, batch: Sequence[EncodedExample], families: Sequence[int]) -> float:
        """Add the gradients of the batch's mean cross entropy, and return it."""
        codes = self._dropped(torch.tensor(families, device=self.codes.device))
        rows = assign_rows([len(one.labels) for one in batch], self.config.row_tokens)
        packed = [pack_row([batch[at] for at in row]).to(self._decoder.device) for row in rows]
        count = sum(len(row.labels) for row in packed)
        parts = []
        for indices, row in zip(rows, packed, strict=True):
            states = row.states if row.states.dim() == 2 else self._decoder.embed(row.states)
            lengths = torch.tensor(row.lengths, device=self.codes.device)
            split = codes[indices].unflatten(-1, (len(self.factors), self.config.rank))
            tokens = (split * self.config.scale).repeat_interleave(lengths, dim=0)
            outputs = self._decoder.run_layers(
                states,
                row.lengths,
                layers=range(min(self.config.layers), len(self.backbone.layers)),
                factors=self.factors,
                code={path: tokens[:, at] for at, path in enumerate(self.factors)},
                positions=row.positions,
            )
            parts.append(
                ChunkedCrossEntropy.apply(
                    self._decoder.final_norm(outputs), self._decoder.head, row.labels
                )
            )
        # One backward pass: the rows share the lookup of the codes.
        loss = torch.stack(parts).sum() / count
        loss.backward()
        return loss.item()

    def _dropped(self, families: Tensor) -> Tensor:
        """Return the codes of a step's examples with dropout, ``[batch, P]``."""
        codes, rate = self.codes[families], self.config.code_dropout
        generator = torch.Generator(codes.device).manual_seed(
            self.config.seed * 1_000_003 + self.step
        )
        kept = torch.rand(codes.shape, generator=generator, device=codes.device) >= rate
        return codes * kept / (1 - rate)

    def _batches(self, count: int) -> list[list[int]]:
        """Return the batches of this epoch; the order depends on seed and epoch only."""
        order = list(range(count))
        random.Random(self.config.seed * 1000 + self.epoch).shuffle(order)  # noqa: S311 - an order, not a secret
        size = self.config.batch
        return [order[at : at + size] for at in range(0, count, size)]


def code_regularization(codes: Tensor, config: BankTraining) -> Tensor:
    """Return the variance and covariance terms of VICReg on a table of codes.

    Args:
        codes: ``[F, P]`` codes of F families; one family has no spread, and the result is 0.
        config: Target deviation and weights of the terms.
    """
    if len(codes) < 2:
        return codes.sum() * 0
    centered = codes - codes.mean(0)
    variances = centered.square().sum(0) / (len(codes) - 1)
    variance = torch.relu(config.spread - (variances + 1e-4).sqrt()).mean()
    # The squared norm of the covariance matrix [P, P] is that of the Gram matrix [F, F].
    gram = centered @ centered.T / (len(codes) - 1)
    covariance = (gram.square().sum() - variances.square().sum()) / codes.shape[1]
    return config.variance * variance + config.covariance * covariance


def _fresh_factors(
    backbone: Backbone, layer: int, kind: str, rank: int
) -> tuple[nn.Parameter, nn.Parameter]:
    module = backbone.layers[layer].get_submodule(TARGET_MODULES[kind])
    module = module.base if isinstance(module, BemSite) else module
    site = LowRankSite(module.in_features, module.out_features, rank).to(backbone.model.device)
    return site.A, site.B

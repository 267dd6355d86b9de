"""Adapter trainer: trains the factors and the controller of one adapter, resumably.

It reads cached states of the frozen lower layers and runs only the layers with sites.
"""

import json
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from bem.adapters.site import TARGET_MODULES
from bem.adapters.site_variants import LowRankSite, Variant, make_site, pad_rank
from bem.backbone import Backbone
from bem.controller import Controller
from bem.training.activation_cache import EncodedExample
from bem.training.checkpoints import EpochCheckpoints
from bem.training.family_decoder import open_decoder
from bem.training.loss import ChunkedCrossEntropy
from bem.training.packing import PackedRow, assign_rows, pack_row
from bem.training.strategy import Strategy, select_compute_dtype


@dataclass(frozen=True)
class TrainingConfig:
    """Hyperparameters of adapter training.

    Attributes:
        layers: Decoder layers with sites.
        kinds: Target modules in each layer.
        rank: Rank of the factors.
        scale: Factor s of the low-rank term.
        feature_layer: Layer that the controller reads, below all sites; -1 for the embeddings.
        control: Train the controller too; without it the code stays one, which is plain LoRA.
        epochs: Passes over the data.
        batch: Examples in one step.
        learning_rate: Peak of the schedule, reached after 5 % of the steps; then a cosine to 0.
        clip: Largest gradient norm.
        seed: Random seed of initialisation and order.
        variant: Parameterisation of the sites, with the budget of plain sites of ``rank``.
    """

    layers: tuple[int, ...]
    kinds: tuple[str, ...] = ("o_proj", "down_proj")
    rank: int = 16
    scale: float = 2.0
    feature_layer: int = 8
    control: bool = True
    epochs: int = 4
    batch: int = 8
    learning_rate: float = 1e-3
    clip: float = 1.0
    seed: int = 0
    variant: Variant = "plain"

    @property
    def active_ranks(self) -> int:
        """Gates of a code that the controller keeps; 0 keeps all."""
        return max(1, self.rank // 2) if self.variant == "rank_mask" else 0


class AdapterTrainer(EpochCheckpoints):
    """Trains one adapter and writes checkpoints; the backbone is never changed.

    Args:
        backbone: A Llama-like model.
        config: Hyperparameters; a checkpoint belongs to one configuration.
        folder: Folder of checkpoints and of the loss curve ``curve.jsonl``.
        strategy: Execution strategy; it may differ between runs of one configuration.
        save_steps: Steps between checkpoints; 0 for one after every epoch.
    """

    def __init__(
        self,
        backbone: Backbone,
        config: TrainingConfig,
        folder: Path,
        *,
        strategy: Strategy | None = None,
        save_steps: int = 0,
    ) -> None:
        super().__init__()
        torch.manual_seed(config.seed)
        self.backbone, self.config, self.folder = backbone, config, folder
        self.save_steps = save_steps
        self.sites = {
            f"model.layers.{layer}.{TARGET_MODULES[kind]}": _fresh_site(
                backbone, layer, kind, config
            )
            for layer in config.layers
            for kind in config.kinds
        }
        self.rank = max(one.served_rank for one in self.sites.values())
        self.controller = Controller(
            backbone.model.config.hidden_size, self.rank, active=config.active_ranks
        )
        self.controller.to(backbone.model.device)
        self.parameters = self._named_parameters()
        self.optimizer = torch.optim.AdamW(self.parameters.values(), weight_decay=0.01)
        self.set_strategy(strategy or Strategy())

    def set_strategy(self, strategy: Strategy) -> None:
        """Execute the steps that follow with ``strategy``."""
        self.strategy = strategy
        compute_dtype = select_compute_dtype(self.backbone, strategy.compute_dtype)
        self.decoder = open_decoder(
            self.backbone, compute_dtype=compute_dtype, recompute=strategy.recompute
        )

    def run(
        self,
        examples: Sequence[EncodedExample],
        after_epoch: Callable[[], bool] | None = None,
    ) -> None:
        """Train from the last checkpoint to the end of the last epoch.

        Args:
            examples: Training examples.
            after_epoch: Called after each epoch, before its checkpoint; training ends if it
                returns true.

        Raises:
            ValueError: The checkpoint in the folder belongs to another configuration.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        total = self.config.epochs * math.ceil(len(examples) / self.config.batch)
        with tqdm(total=total, initial=self.step, unit="step") as bar:
            while self.epoch < self.config.epochs:
                batches = epoch_batches(examples, self.config, self.epoch)
                for batch in islice(batches, self._steps_in_epoch, None):
                    bar.set_postfix(loss=f"{self.train_step(batch, total):.3f}")
                    bar.update()
                self.epoch, self._steps_in_epoch = self.epoch + 1, 0
                stops = after_epoch is not None and after_epoch()
                self._checkpoint()
                if stops:
                    return

    @property
    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Factors ``{site path: (A [r, d_in], B [d_out, r])}`` that the sites stand for now."""
        return {path: pad_rank(one.factors(), self.rank) for path, one in self.sites.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the artifact: ``<site>.A``, ``<site>.B`` and ``controller.*``."""
        out = {}
        for path, (a, b) in self.factors.items():
            out[f"{path}.A"] = a.detach().half()
            out[f"{path}.B"] = b.detach().half()
        for name, tensor in self.controller.state_dict().items():
            out[f"controller.{name}"] = tensor.detach()
        return out

    def mean_loss(self, batch: Sequence[EncodedExample]) -> Tensor:
        """Return the mean cross entropy of the reply tokens of ``batch``."""
        rows = self.pack_rows(batch)
        total = torch.stack([self.row_loss(row) for row in rows]).sum()
        return total / sum(len(row.labels) for row in rows)

    def pack_rows(self, batch: Sequence[EncodedExample]) -> list[PackedRow]:
        """Pack a batch into rows of the strategy's size."""
        rows = assign_rows([len(e.labels) for e in batch], self.strategy.row_tokens)
        device = self.decoder.device
        return [pack_row([batch[index] for index in row]).to(device) for row in rows]

    def row_loss(self, row: PackedRow) -> Tensor:
        """Return the summed cross entropy of the reply tokens of one row."""
        states = row.states if row.states.dim() == 2 else self.decoder.embed(row.states)
        outputs = self.decoder.run_layers(
            states,
            row.lengths,
            layers=range(min(self.config.layers), len(self.backbone.layers)),
            factors=self.factors,
            code=self._code(row),
            positions=row.positions,
            prefixes=row.prefixes,
        )
        return ChunkedCrossEntropy.apply(
            self.decoder.final_norm(outputs), self.decoder.head, row.labels
        )

    def accumulate_gradients(self, batch: Sequence[EncodedExample]) -> float:
        """Add the gradients of the batch's mean loss, row by row, and return that loss."""
        rows = self.pack_rows(batch)
        count = sum(len(row.labels) for row in rows)
        total = 0.0
        for row in rows:
            loss = self.row_loss(row) / count
            loss.backward()
            total += loss.item()
        return total

    def train_step(self, batch: Sequence[EncodedExample], total: int) -> float:
        """Take one step of ``total``, write it to the curve and return the loss before the step."""
        began = time.perf_counter()
        rate = self.config.learning_rate * warmup_cosine(self.step, total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.accumulate_gradients(batch)
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._steps_in_epoch += 1
        line = {
            "step": self.step,
            "epoch": self.epoch,
            "loss": loss,
            "gradient_norm": norm.item(),
            "learning_rate": rate,
            "tokens": sum(len(e.labels) for e in batch),
            "seconds": time.perf_counter() - began,
        }
        with (self.folder / "curve.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self.save_steps and self.step % self.save_steps == 0:
            self._checkpoint()
        return loss

    def _code(self, row: PackedRow) -> Tensor:
        """Return the code of each token times the scale, ``[T, r]``.

        Without control and without tokens before an adapter's start it is ``[1, r]``.
        """
        rank, device = self.rank, self.decoder.device
        if self.config.control:
            code = self.controller.prefix(row.features) * self.config.scale
        elif any(row.starts):
            code = torch.full((len(row.lengths), rank), self.config.scale, device=device)
        else:
            return torch.full((1, rank), self.config.scale, device=device)
        lengths = torch.tensor(row.lengths, device=code.device)
        code = code.repeat_interleave(lengths, dim=0, output_size=sum(row.lengths))
        if any(row.starts):
            places = torch.cat([torch.arange(length) for length in row.lengths])
            starts = torch.tensor(row.starts).repeat_interleave(torch.tensor(row.lengths))
            code = code * (places >= starts).to(code).unsqueeze(1)
        return code

    def _named_parameters(self) -> dict[str, nn.Parameter]:
        named: dict[str, nn.Parameter] = {}
        if self.config.control:
            named = {f"controller.{n}": p for n, p in self.controller.named_parameters()}
        for path, site in self.sites.items():
            named |= {f"{path}.{name}": one for name, one in site.named_parameters()}
        return named


def epoch_batches(
    examples: Sequence[EncodedExample], config: TrainingConfig, epoch: int
) -> list[list[EncodedExample]]:
    """Return the batches of an epoch: examples of similar length, in an order of its own.

    The order depends on the seed and the epoch only, so that a resumed run repeats it.
    """
    order = random.Random(config.seed * 1000 + epoch)  # noqa: S311 - an order, not a secret
    by_length = sorted(examples, key=lambda e: (len(e.labels), order.random()))
    groups = [by_length[i : i + config.batch] for i in range(0, len(by_length), config.batch)]
    order.shuffle(groups)
    return groups


def warmup_cosine(step: int, total: int) -> float:
    """Return the share of the peak learning rate: linear warm-up over 5 %, then cosine to zero."""
    warm = max(1, total // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def _fresh_site(backbone: Backbone, layer: int, kind: str, config: TrainingConfig) -> LowRankSite:
    """Return a fresh site on the backbone's device; float32 for any backbone dtype."""
    module = backbone.layers[layer].get_submodule(TARGET_MODULES[kind])
    model = backbone.model.config
    site = make_site(
        config.variant,
        kind,
        module.in_features,
        module.out_features,
        config.rank,
        head=model.hidden_size // model.num_attention_heads,
    )
    return site.to(backbone.model.device)

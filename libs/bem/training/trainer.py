"""Training of one adapter: factors and controller, over packed states of the frozen lower layers."""

import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from bem.adapters.site import KINDS
from bem.backbone import Backbone
from bem.controller import Controller
from bem.training.checkpoints import keep_lines, read_checkpoint, write_checkpoint
from bem.training.decoder import TrainingDecoder
from bem.training.features import Example
from bem.training.loss import HeadLoss
from bem.training.packing import Packed, fill_rows, pack
from bem.training.strategy import Strategy, settle_arithmetic


@dataclass(frozen=True)
class TrainingPlan:
    """How an adapter is trained.

    Attributes:
        layers: Decoder layers with sites.
        kinds: Kinds of sites.
        rank: Rank of the factors.
        scale: Factor of the low-rank step.
        feature_layer: Layer that the controller reads, below all sites; -1 for the embeddings.
        control: Train the controller too; without it the code stays one, which is plain LoRA.
        epochs: Passes over the data.
        batch: Examples in one step.
        learning_rate: Peak of the schedule, reached after 5 % of the steps, then a cosine to 0.
        clip: Largest gradient norm.
        seed: Of initialisation and order.
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


class AdapterTrainer:
    """Trains one adapter, resumably; the backbone is read and never changed.

    Args:
        backbone: A Llama-like model.
        plan: What to train; a checkpoint belongs to one plan.
        folder: For checkpoints and the curve (``curve.jsonl``).
        strategy: How to carry a step out; may differ from run to run of one plan.
        save_steps: Steps between checkpoints; 0 for one after every epoch.
    """

    def __init__(
        self,
        backbone: Backbone,
        plan: TrainingPlan,
        folder: Path,
        *,
        strategy: Strategy | None = None,
        save_steps: int = 0,
    ) -> None:
        torch.manual_seed(plan.seed)
        self.backbone, self.plan, self.folder = backbone, plan, folder
        self.save_steps = save_steps
        self.factors = {
            f"model.layers.{layer}.{KINDS[kind]}": _start(backbone, layer, kind, plan.rank)
            for layer in plan.layers
            for kind in plan.kinds
        }
        self.controller = Controller(backbone.model.config.hidden_size, plan.rank)
        self.controller.to(backbone.model.device)
        self.parameters = self._named_parameters()
        self.optimizer = torch.optim.AdamW(self.parameters.values(), weight_decay=0.01)
        self.epoch = self.step = 0
        self._done_in_epoch = 0
        self.use(strategy or Strategy())

    def use(self, strategy: Strategy) -> None:
        """Carry out the steps that follow by ``strategy``."""
        self.strategy = strategy
        arithmetic = settle_arithmetic(self.backbone, strategy.arithmetic)
        self.decoder = TrainingDecoder(
            self.backbone, arithmetic=arithmetic, recompute=strategy.recompute
        )

    def run(self, examples: Sequence[Example]) -> None:
        """Train from where the last checkpoint ended to the last epoch.

        Raises:
            ValueError: The folder's checkpoint belongs to another plan.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        total = self.plan.epochs * math.ceil(len(examples) / self.plan.batch)
        with tqdm(total=total, initial=self.step, unit="step") as bar:
            while self.epoch < self.plan.epochs:
                batches = epoch_batches(examples, self.plan, self.epoch)
                for batch in islice(batches, self._done_in_epoch, None):
                    bar.set_postfix(loss=f"{self.train_step(batch, total):.3f}")
                    bar.update()
                self.epoch, self._done_in_epoch = self.epoch + 1, 0
                self._checkpoint()

    def tensors(self) -> dict[str, Tensor]:
        """Return what an artifact holds: ``<site>.A``, ``<site>.B``, ``controller.*``."""
        out = {}
        for path, (a, b) in self.factors.items():
            out[f"{path}.A"] = a.detach().half()
            out[f"{path}.B"] = b.detach().half()
        for name, tensor in self.controller.state_dict().items():
            out[f"controller.{name}"] = tensor.detach()
        return out

    def loss(self, batch: Sequence[Example]) -> Tensor:
        """Return the mean cross entropy of the reply tokens of ``batch``."""
        rows = self.rows(batch)
        total = torch.stack([self.row_loss(row) for row in rows]).sum()
        return total / sum(len(row.labels) for row in rows)

    def rows(self, batch: Sequence[Example]) -> list[Packed]:
        """Pack a batch as the strategy says."""
        rows = fill_rows([len(e.labels) for e in batch], self.strategy.row_tokens)
        device = self.decoder.device
        return [pack([batch[index] for index in row]).to(device) for row in rows]

    def row_loss(self, row: Packed) -> Tensor:
        """Return the summed cross entropy of the reply tokens of one row."""
        states = row.states if row.states.dim() == 2 else self.decoder.embed(row.states)
        found = self.decoder.run(
            states,
            row.lengths,
            layers=range(min(self.plan.layers), len(self.backbone.layers)),
            factors=self.factors,
            code=self._code(row),
            wanted=row.wanted,
        )
        return HeadLoss.apply(self.decoder.normed(found), self.decoder.head, row.labels)

    def accumulate(self, batch: Sequence[Example]) -> float:
        """Add the gradients of the mean loss of ``batch``, row by row; return that loss."""
        rows = self.rows(batch)
        count = sum(len(row.labels) for row in rows)
        total = 0.0
        for row in rows:
            loss = self.row_loss(row) / count
            loss.backward()
            total += loss.item()
        return total

    def train_step(self, batch: Sequence[Example], total: int) -> float:
        """Take one step of ``total`` and note it in the curve; return the loss before it."""
        began = time.perf_counter()
        rate = self.plan.learning_rate * schedule(self.step, total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.accumulate(batch)
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.plan.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._done_in_epoch += 1
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

    def _code(self, row: Packed) -> Tensor:
        """Return each token's code times the scale, ``[T, r]``; ``[1, r]`` without control."""
        if not self.plan.control:
            return torch.full((1, self.plan.rank), self.plan.scale, device=self.decoder.device)
        code = self.controller.prefix(row.features) * self.plan.scale
        lengths = torch.tensor(row.lengths, device=code.device)
        return code.repeat_interleave(lengths, dim=0, output_size=sum(row.lengths))

    def _named_parameters(self) -> dict[str, nn.Parameter]:
        named: dict[str, nn.Parameter] = {}
        if self.plan.control:
            named = {f"controller.{n}": p for n, p in self.controller.named_parameters()}
        for path, (a, b) in self.factors.items():
            named[f"{path}.A"], named[f"{path}.B"] = a, b
        return named

    def _checkpoint(self) -> None:
        place = {"epoch": self.epoch, "step": self.step, "done_in_epoch": self._done_in_epoch}
        write_checkpoint(self.folder, asdict(self.plan), place, self.parameters, self.optimizer)

    def _resume(self) -> None:
        place = read_checkpoint(self.folder, asdict(self.plan), self.parameters, self.optimizer)
        if place is not None:
            self.epoch, self.step = place["epoch"], place["step"]
            self._done_in_epoch = place["done_in_epoch"]
        keep_lines(self.folder / "curve.jsonl", self.step)


def epoch_batches(
    examples: Sequence[Example], plan: TrainingPlan, epoch: int
) -> list[list[Example]]:
    """Group examples of like length, then shuffle the groups; the same for the same epoch."""
    order = random.Random(plan.seed * 1000 + epoch)  # noqa: S311 - an order, not a secret
    by_length = sorted(examples, key=lambda e: (len(e.labels), order.random()))
    groups = [by_length[i : i + plan.batch] for i in range(0, len(by_length), plan.batch)]
    order.shuffle(groups)
    return groups


def schedule(step: int, total: int) -> float:
    """Return the share of the peak rate: linear warm-up over 5 %, then a cosine to zero."""
    warm = max(1, total // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def _start(
    backbone: Backbone, layer: int, kind: str, rank: int
) -> tuple[nn.Parameter, nn.Parameter]:
    """Start as LoRA does, A random and B zero; float32 whatever the backbone's type is."""
    site = backbone.layers[layer].get_submodule(KINDS[kind])
    # The bound is 1 / sqrt(r d_in): one slot of a stack of factors, as adapters were first trained.
    a = torch.empty(1, rank, site.in_features)
    nn.init.kaiming_uniform_(a, a=math.sqrt(5))
    b = torch.zeros(site.out_features, rank)
    device = backbone.model.device
    return nn.Parameter(a[0].to(device)), nn.Parameter(b.to(device))

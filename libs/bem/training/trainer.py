"""Training of one skill: factors and controller, over cached states of the frozen lower half."""

import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from bem.adapters.site import BemSite, RowCodes, install_sites
from bem.backbone import Backbone
from bem.controller import Controller
from bem.training.features import Example, run_layer


@dataclass(frozen=True)
class TrainingPlan:
    """How a skill is trained.

    Attributes:
        layers: Decoder layers with sites.
        kinds: Kinds of sites.
        rank: Rank of the factors.
        scale: Factor of the low-rank step.
        feature_layer: Layer that the controller reads, below all sites.
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
    epochs: int = 4
    batch: int = 8
    learning_rate: float = 1e-3
    clip: float = 1.0
    seed: int = 0


class SkillTrainer:
    """Trains one skill; a checkpoint after every epoch makes it resumable.

    Args:
        backbone: Gets sites of one slot installed; its weights never change.
        plan: How to train.
        folder: For checkpoints and the curve (``curve.jsonl``).
    """

    def __init__(self, backbone: Backbone, plan: TrainingPlan, folder: Path) -> None:
        torch.manual_seed(plan.seed)
        self.backbone, self.plan, self.folder = backbone, plan, folder
        self.rows = RowCodes()
        self.sites = install_sites(
            backbone.model,
            layers=plan.layers,
            kinds=plan.kinds,
            rank=plan.rank,
            slots=1,
            rows=self.rows,
        )
        for site in self.sites.values():
            _prepare(site, plan.scale)
        self.controller = Controller(backbone.model.config.hidden_size, plan.rank)
        self.controller.to(backbone.model.device)
        self.parameters = self._named_parameters()
        self.optimizer = torch.optim.AdamW(self.parameters.values(), weight_decay=0.01)
        self.epoch = 0
        self.step = 0

    def run(self, examples: Sequence[Example]) -> None:
        """Train from where the last checkpoint ended to the last epoch."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        total = self.plan.epochs * math.ceil(len(examples) / self.plan.batch)
        with tqdm(total=total, initial=self.step, unit="step") as bar:
            while self.epoch < self.plan.epochs:
                for batch in _batches(examples, self.plan, self.epoch):
                    bar.set_postfix(loss=f"{self._step(batch, total):.3f}")
                    bar.update()
                self.epoch += 1
                self._checkpoint()

    def tensors(self) -> dict[str, Tensor]:
        """Return what an artifact holds: ``<site>.A``, ``<site>.B``, ``controller.*``."""
        out = {}
        for path, site in self.sites.items():
            out[f"{path}.A"] = site.A.detach()[0].half()
            out[f"{path}.B"] = site.B.detach()[0].half()
        for name, tensor in self.controller.state_dict().items():
            out[f"controller.{name}"] = tensor.detach()
        return out

    def loss(self, batch: Sequence[Example]) -> Tensor:
        """Return the mean cross entropy of the reply tokens of ``batch``."""
        device = self.backbone.model.device
        hidden = nn.utils.rnn.pad_sequence([e.hidden for e in batch], batch_first=True).to(device)
        labels = nn.utils.rnn.pad_sequence(
            [e.labels for e in batch], batch_first=True, padding_value=-100
        ).to(device)
        code = self.controller.prefix(torch.stack([e.feature for e in batch]).to(device))
        slots = torch.zeros(len(batch), 1, dtype=torch.int64, device=device)
        self.rows.set(slots, code.unsqueeze(1))
        for layer in self.backbone.layers[min(self.plan.layers) :]:
            hidden = run_layer(self.backbone, layer, hidden)
        self.rows.clear()
        # The head is a third of the model: only reply positions pass through it.
        wanted = labels != -100
        states = self.backbone.model.model.norm(hidden[wanted])
        return cross_entropy(self.backbone.model.lm_head(states).float(), labels[wanted])

    def _step(self, batch: Sequence[Example], total: int) -> float:
        began = time.perf_counter()
        rate = self.plan.learning_rate * _schedule(self.step, total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.loss(batch)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.plan.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        line = {
            "step": self.step,
            "epoch": self.epoch,
            "loss": loss.item(),
            "gradient_norm": norm.item(),
            "learning_rate": rate,
            "tokens": sum(len(e.labels) for e in batch),
            "seconds": time.perf_counter() - began,
        }
        with (self.folder / "curve.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        return float(line["loss"])

    def _named_parameters(self) -> dict[str, nn.Parameter]:
        named = {f"controller.{n}": p for n, p in self.controller.named_parameters()}
        for path, site in self.sites.items():
            named[f"{path}.A"], named[f"{path}.B"] = site.A, site.B
        return named

    def _checkpoint(self) -> None:
        tensors = {name: p.detach().contiguous() for name, p in self.parameters.items()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"adam.{key}/{name}"] = value
        place = {"epoch": self.epoch, "step": self.step, "plan": asdict(self.plan)}
        scratch = self.folder / "checkpoint.new"
        save_file(tensors, scratch, metadata={"place": json.dumps(place)})
        scratch.replace(self.folder / "checkpoint.safetensors")

    def _resume(self) -> None:
        """Take up a checkpoint of the same plan; one of another plan is an error."""
        path = self.folder / "checkpoint.safetensors"
        if not path.exists():
            return
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        place = json.loads(header["__metadata__"]["place"])
        if place["plan"] != json.loads(json.dumps(asdict(self.plan))):
            raise ValueError(f"{path.name} belongs to another plan; remove {self.folder} first")
        tensors = load_file(path)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[name])
                # A head that this level of control does not use has no state.
                state = {
                    key: tensors[f"adam.{key}/{name}"].clone()
                    for key in ("step", "exp_avg", "exp_avg_sq")
                    if f"adam.{key}/{name}" in tensors
                }
                if state:
                    self.optimizer.state[parameter] = state
        self.epoch, self.step = place["epoch"], place["step"]


def _prepare(site: BemSite, scale: float) -> None:
    """Start as LoRA does: A random, B zero; float32 whatever the backbone's type is."""
    a = torch.empty_like(site.A, dtype=torch.float32)
    nn.init.kaiming_uniform_(a, a=math.sqrt(5))
    site.A = nn.Parameter(a)
    site.B = nn.Parameter(torch.zeros_like(site.B, dtype=torch.float32))
    with torch.no_grad():
        site.scale.fill_(scale)


def _batches(examples: Sequence[Example], plan: TrainingPlan, epoch: int) -> list[list[Example]]:
    """Group examples of like length, then shuffle the groups; the same for the same epoch."""
    order = random.Random(plan.seed * 1000 + epoch)  # noqa: S311 - an order, not a secret
    by_length = sorted(examples, key=lambda e: (len(e.labels), order.random()))
    groups = [by_length[i : i + plan.batch] for i in range(0, len(by_length), plan.batch)]
    order.shuffle(groups)
    return groups


def _schedule(step: int, total: int) -> float:
    """Return the share of the peak rate: linear warm-up over 5 %, then a cosine to zero."""
    warm = max(1, total // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))

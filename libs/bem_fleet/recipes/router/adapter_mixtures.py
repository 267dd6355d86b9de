"""Mixtures of the plan tasks' adapters with weights for each token: X-LoRA and Arrow, by peft.

X-LoRA (arXiv 2402.07148) trains a classifier that weighs frozen adapters by the base model's last
hidden state. Arrow (arXiv 2405.11157) trains nothing: the prototype of an adapter at a site is the
first right singular vector of its update, and the similarity of a token to it is the weight. Both
run every adapter on all tokens of the prompt and the reply. They are baselines of the router.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from bem.adapters.artifact import read_adapter
from bem.adapters.peft_folder import export_lora
from bem.backbone import Backbone
from bem.errors import ArtifactFormatError, InvalidSettingError
from bem.training.activation_cache import IGNORED_LABEL, TokenPair
from peft import ArrowConfig, LoraConfig, PeftModel, XLoraConfig, get_peft_model
from peft.tuners.lora.arrow import ArrowLoraLinearLayer
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from bem_fleet.recipes.router.step_examples import PLAN_TASKS

_ROUTER = "arrow_router"
CLASSIFIER = "classifier.safetensors"
"""File of the weights of an X-LoRA classifier."""
_CARD = "xlora.json"


@dataclass(frozen=True)
class XLoraTraining:
    """Settings of the classifier's training.

    Attributes:
        epochs: Passes over the examples, at least 1.
        batch: Examples of one step, at least 1.
        learning_rate: Peak of the cosine schedule.
        depth: Layers of the classifier, at least 1.
        width: Width of its hidden layers.
        seed: Random seed of its weights and of the order of the examples.

    Raises:
        InvalidSettingError: A number is below 1.
    """

    epochs: int = 3
    batch: int = 8
    learning_rate: float = 1e-3
    depth: int = 2
    width: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch, self.depth, self.width) < 1:
            raise InvalidSettingError(
                f"xlora: epochs, batch, depth and width are at least 1; got {self}"
            )


def export_tasks(backbone: Backbone, tasks: Path, out: Path) -> list[Path]:
    """Write the adapter of each plan task as a folder that peft loads, and return the folders.

    Args:
        backbone: Base model of the adapters.
        tasks: Folder with the adapters.
        out: Created if missing.

    Raises:
        ArtifactFormatError: The code of an adapter depends on the input, which peft cannot compute.
    """
    folders = [out / task for task in PLAN_TASKS]
    for folder in folders:
        if not export_lora(read_adapter(tasks / folder.name, base_digest=backbone.digest), folder):
            raise ArtifactFormatError(
                f"adapter {folder.name!r}: its code depends on the input, which peft cannot "
                "compute; train it without a controller"
            )
    return folders


def open_xlora(backbone: Backbone, adapters: Sequence[Path], settings: XLoraTraining) -> Any:
    """Return an X-LoRA model with a fresh classifier; the base model is changed in place.

    Args:
        backbone: Base model without sites.
        adapters: Folders of ``export_tasks``.
        settings: Depth, width and seed of the classifier.
    """
    # X-LoRA computes the weights of all tokens anew in every pass.
    backbone.model.config.use_cache = False
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = get_peft_model(
            backbone.model,
            XLoraConfig(
                task_type="CAUSAL_LM",
                hidden_size=backbone.model.config.hidden_size,
                # peft loads the adapters under their places, and finds no others.
                adapters={str(place): str(folder) for place, folder in enumerate(adapters)},
                xlora_depth=settings.depth,
                xlora_size=settings.width,
                xlora_dropout_p=0.0,
            ),
        )
    return model.eval()


def train_xlora(
    model: Any, sequences: Sequence[TokenPair], settings: XLoraTraining
) -> dict[str, float]:
    """Train the classifier on replies, and return what shows that it trained.

    Args:
        model: Model of ``open_xlora``.
        sequences: Token ids of each prompt and reply.
        settings: Epochs, batch, learning rate and seed of the training.

    Returns:
        ``first_gradient`` and ``moved``, the norms of the first step's gradient and of the change
        of all weights, and the mean loss of the first and of the last epoch.

    Raises:
        InvalidSettingError: The classifier has no gradient or does not move: it is frozen, and the
            model would be a weak baseline.
    """
    weights = [one for one in model.parameters() if one.requires_grad]
    classifier = model.base_model.internal_xlora_classifier
    if {id(one) for one in weights} != {id(one) for one in classifier.parameters()}:
        raise InvalidSettingError("xlora: not exactly the classifier is trained; update peft")
    before = [one.detach().clone() for one in weights]
    order = torch.Generator().manual_seed(settings.seed)
    steps = settings.epochs * -(-len(sequences) // settings.batch)
    optimizer = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses, first = [], 0.0
    with tqdm(total=steps, desc="xlora", unit="step") as bar:
        for _ in range(settings.epochs):
            for places in torch.randperm(len(sequences), generator=order).split(settings.batch):
                losses.append(_backward(model, [sequences[place] for place in places.tolist()]))
                first = first or _norm([one.grad for one in weights if one.grad is not None])
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                bar.update()
    moved = _norm([one.detach() - old for one, old in zip(weights, before, strict=True)])
    if not (first > 0 and moved > 0):
        raise InvalidSettingError(
            f"xlora: the classifier's gradient is {first:g} and its weights moved by {moved:g}; "
            "both must be above 0"
        )
    epoch = steps // settings.epochs
    return {
        "first_gradient": first,
        "moved": moved,
        "first_loss": sum(losses[:epoch]) / epoch,
        "last_loss": sum(losses[-epoch:]) / epoch,
    }


def save_xlora(
    folder: Path, model: Any, settings: XLoraTraining, *, command: str, measured: dict[str, float]
) -> None:
    """Write the classifier and its card."""
    folder.mkdir(parents=True, exist_ok=True)
    state = model.base_model.internal_xlora_classifier.state_dict()
    save_file({name: one.contiguous() for name, one in state.items()}, folder / CLASSIFIER)
    card = {"settings": asdict(settings), "command": command, "metrics": measured}
    (folder / _CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def read_xlora(backbone: Backbone, adapters: Sequence[Path], folder: Path) -> Any:
    """Return the X-LoRA model that ``save_xlora`` wrote; the base model is changed in place.

    Raises:
        ArtifactFormatError: A file is missing or malformed.
    """
    try:
        card = json.loads((folder / _CARD).read_text(encoding="utf-8"))
        model = open_xlora(backbone, adapters, XLoraTraining(**card["settings"]))
        state = load_file(folder / CLASSIFIER)
        model.base_model.internal_xlora_classifier.load_state_dict(state)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as err:
        raise ArtifactFormatError(f"{folder.name}: no X-LoRA: {err}; train it again") from err
    return model


def open_arrow(
    backbone: Backbone, adapters: Sequence[Path], *, top_k: int = 3, temperature: float = 1.0
) -> Any:
    """Return an Arrow model; the base model is changed in place.

    peft's own constructor puts the router on layers without adapters too, which fails, and its
    prototypes come from a few power iterations. Here they are exact.

    Args:
        backbone: Base model without sites.
        adapters: Folders of ``export_tasks``; their ranks and sites are the same.
        top_k: Adapters of one token.
        temperature: Temperature of their weights.
    """
    names = [f"task_{place}" for place in range(len(adapters))]
    model = PeftModel.from_pretrained(backbone.model, str(adapters[0]), adapter_name=names[0])
    for name, folder in zip(names[1:], adapters[1:], strict=True):
        model.load_adapter(str(folder), adapter_name=name)
    like = model.peft_config[names[0]]
    arrow = ArrowConfig(top_k=min(top_k, len(names)), router_temperature=temperature)
    arrow.task_adapter_names, arrow.gks_adapter_names = names, []
    router = LoraConfig(
        arrow_config=arrow,
        r=like.r,
        target_modules=like.target_modules,
        layers_to_transform=like.layers_to_transform,
        layers_pattern=like.layers_pattern,
    )
    model.add_adapter(_ROUTER, router)
    model.set_adapter(_ROUTER)
    for module in model.modules():
        for layer in getattr(module, "lora_arrow", {}).values():
            _set_prototypes(layer, module, names)
    return model.eval()


def prototype(a: Tensor, b: Tensor) -> Tensor:
    """Return the first right singular vector of ``b @ a``, ``[in]``, without forming the product.

    Args:
        a: ``[rank, in]`` factor.
        b: ``[out, rank]`` factor.
    """
    basis, triangle = torch.linalg.qr(a.float().T)
    _, _, right = torch.linalg.svd(b.float() @ triangle.T, full_matrices=False)
    return basis @ right[0]


def _set_prototypes(layer: ArrowLoraLinearLayer, module: Any, names: Sequence[str]) -> None:
    found = [prototype(module.lora_A[name].weight, module.lora_B[name].weight) for name in names]
    layer.register_buffer("prototypes", torch.stack(found).detach(), persistent=False)
    layer._protos_ready = True  # noqa: SLF001 - peft has no other way to state prototypes


def _backward(model: Any, batch: Sequence[TokenPair]) -> float:
    """Add the gradient of a batch's mean loss, and return the loss in nats per reply token."""
    # One sequence at a time: no padding, which the classifier would weigh too.
    count = sum(len(reply) for _, reply in batch)
    total = 0.0
    for prompt, reply in batch:
        ids = torch.tensor([[*prompt, *reply]])
        labels = torch.tensor([[*[IGNORED_LABEL] * len(prompt), *reply]])
        loss = model(input_ids=ids, labels=labels).loss * len(reply) / count
        loss.backward()
        total += float(loss.detach())
    return total


def _norm(tensors: Sequence[Tensor]) -> float:
    return float(sum((one.square().sum() for one in tensors), torch.zeros(())).sqrt())

"""Low-rank adapter of the guard's sentence encoder, trained on requests and replies at once.

MiniLM stays as packaged. Its lower layers run once for every example and their states are kept;
low-rank factors of the matrices above them are trained with two throw-away heads, and stored. The
sidecar merges the factors into the weights, so that a tuned encoder costs nothing more.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from bem_fleet.guard.scoring.embedding import DOWN, HEADS, LAYERS, UP, WIDTH, model_folder
from bem_fleet.guard.scoring.heads import REQUEST_HEADS
from bem_fleet.guard.training.examples import Example
from bem_fleet.recipes.guard.batching import batches

RANK, FIRST_LAYER = 16, 4
MAX_TOKENS = 40
_MATRICES = {
    "attention.self.query": (WIDTH, WIDTH),
    "attention.self.key": (WIDTH, WIDTH),
    "attention.self.value": (WIDTH, WIDTH),
    "attention.output.dense": (WIDTH, WIDTH),
    "intermediate.dense": (WIDTH, 4 * WIDTH),
    "output.dense": (4 * WIDTH, WIDTH),
}
_BATCH = 32
_LEARNING_RATE, _WEIGHT_DECAY = 2e-3, 0.01
_WARM_UP_SHARE = 0.06
_DROPOUT, _SMOOTHING = 0.1, 0.03
# Logits are linear in unit vectors times this.
_FEATURE_SCALE = 8.0
_EPSILON = 1e-12


class TunedEncoder(nn.Module):
    """MiniLM with an adapter of its upper layers and two heads.

    Args:
        rank: Rank of the factors.
    """

    def __init__(self, rank: int = RANK) -> None:
        super().__init__()
        folder = model_folder()
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._weights = load_file(folder / "model.safetensors")
        self.factors = nn.ParameterDict()
        for layer in range(FIRST_LAYER, LAYERS):
            for matrix, (inputs, outputs) in _MATRICES.items():
                name = f"encoder.layer.{layer}.{matrix}".replace(".", "/")
                self.factors[name + DOWN.replace(".", "/")] = nn.Parameter(
                    torch.randn(rank, inputs) / inputs**0.5
                )
                self.factors[name + UP.replace(".", "/")] = nn.Parameter(torch.zeros(outputs, rank))
        self.requests = nn.Linear(WIDTH, 1 + len(REQUEST_HEADS))
        self.replies = nn.Linear(WIDTH, 1)

    @torch.no_grad()
    def lower_states(self, texts: Sequence[str]) -> list[Tensor]:
        """Return the states below the adapted layers of each text, [tokens, 384] in float16."""
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        states: list[Tensor] = [torch.empty(0)] * len(ids)
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            padded = nn.utils.rnn.pad_sequence([torch.tensor(ids[r]) for r in rows], True)
            mask = _mask([len(ids[r]) for r in rows])
            w = self._weights
            x = w["embeddings.word_embeddings.weight"][padded]
            x = x + w["embeddings.position_embeddings.weight"][: padded.shape[1]]
            x = self._norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings")
            for layer in range(FIRST_LAYER):
                x = self._layer(x, mask, f"encoder.layer.{layer}")
            for row, state in zip(rows, x, strict=True):
                states[row] = state[: len(ids[row])].half()
        return states

    def logits(self, states: Sequence[Tensor], *, is_reply: bool) -> Tensor:
        """Return class logits of requests [n, 7], or logits of abuse of replies [n, 1].

        Args:
            states: Results of ``lower_states``.
            is_reply: Which head judges them.
        """
        features = functional.dropout(_FEATURE_SCALE * self._upper(states), _DROPOUT, self.training)
        head = self.replies if is_reply else self.requests
        out: Tensor = head(features)
        return out

    @torch.no_grad()
    def embed(self, states: Sequence[Tensor]) -> NDArray[np.float32]:
        """Return unit vectors [n, 384] of texts, given the results of ``lower_states``."""
        embeddings = np.empty((len(states), WIDTH), dtype=np.float32)
        order = sorted(range(len(states)), key=lambda index: len(states[index]))
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            embeddings[rows] = self._upper([states[row] for row in rows]).numpy()
        return embeddings

    def _upper(self, states: Sequence[Tensor]) -> Tensor:
        x = nn.utils.rnn.pad_sequence([state.float() for state in states], True)
        mask = _mask([len(state) for state in states])
        for layer in range(FIRST_LAYER, LAYERS):
            x = self._layer(x, mask, f"encoder.layer.{layer}")
        kept = (mask[:, 0, 0, :, None] == 0).float()
        return functional.normalize((x * kept).sum(1) / kept.sum(1))

    def adapter(self) -> dict[str, NDArray[np.float16]]:
        """Return the factors by name, in float16."""
        return {
            name.replace("/", "."): factor.detach().numpy().astype(np.float16)
            for name, factor in self.factors.items()
        }

    def _layer(self, x: Tensor, mask: Tensor, name: str) -> Tensor:
        batch, longest, width = x.shape
        query, key, value = (
            self._linear(x, f"{name}.attention.self.{projection}")
            .view(batch, longest, HEADS, width // HEADS)
            .transpose(1, 2)
            for projection in ("query", "key", "value")
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        mixed = mixed.transpose(1, 2).reshape(batch, longest, width)
        x = self._norm(
            x + self._linear(mixed, f"{name}.attention.output.dense"), f"{name}.attention.output"
        )
        inner = functional.gelu(self._linear(x, f"{name}.intermediate.dense"))
        return self._norm(x + self._linear(inner, f"{name}.output.dense"), f"{name}.output")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        out = functional.linear(x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])
        key = f"{name}{DOWN}".replace(".", "/")
        if key in self.factors:
            up = self.factors[f"{name}{UP}".replace(".", "/")]
            out = out + functional.linear(functional.linear(x, self.factors[key]), up)
        return out

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight = self._weights[f"{name}.LayerNorm.weight"]
        bias = self._weights[f"{name}.LayerNorm.bias"]
        return functional.layer_norm(x, (WIDTH,), weight, bias, _EPSILON)


@dataclass(frozen=True)
class EpochReport:
    """Quality after an epoch.

    Attributes:
        epoch: Number of the epoch, from 1.
        loss: Mean loss of its batches.
        dev: Scores and whether they are harmful, by side ``requests`` and ``replies``; after the
            last epoch only.
    """

    epoch: int
    loss: float
    dev: dict[str, tuple[NDArray[np.float64], NDArray[np.bool_]]]


def train_encoder(
    train: Sequence[Example],
    dev: Sequence[Example],
    *,
    epochs: int,
    seed: int,
    report: Callable[[EpochReport], None],
) -> tuple[TunedEncoder, NDArray[np.float32]]:
    """Return the encoder after its last epoch, and its embeddings of the training examples.

    Args:
        train: Training examples.
        dev: Examples whose scores are reported after each epoch; nothing is selected by them.
        epochs: Passes over the training examples.
        seed: Seed of initial values and order.
        report: Called after each epoch.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)  # noqa: S311 - not a secret
    encoder = TunedEncoder()
    states = encoder.lower_states([one.text for one in train])
    dev_states = encoder.lower_states([one.text for one in dev])
    weights = _class_weights(train)
    optimizer = torch.optim.AdamW(
        encoder.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY
    )
    steps = epochs * len(batches(train, _BATCH, rng))
    warm_up = max(1, int(_WARM_UP_SHARE * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, (steps - step) / max(1, steps - warm_up))
    )
    for epoch in range(1, epochs + 1):
        encoder.train()
        losses = []
        for batch in batches(train, _BATCH, rng):
            loss = _loss(encoder, [train[i] for i in batch], [states[i] for i in batch], weights)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        encoder.eval()
        scores = _dev_scores(encoder, dev, dev_states) if epoch == epochs else {}
        report(EpochReport(epoch, float(np.mean(losses)), scores))
    return encoder, encoder.embed(states)


def _mask(lengths: Sequence[int]) -> Tensor:
    """Return the additive attention mask [texts, 1, 1, tokens] of texts of some lengths."""
    places = torch.arange(max(lengths))
    hidden = places[None, :] >= torch.tensor(lengths)[:, None]
    return torch.zeros(hidden.shape).masked_fill(hidden, -1e9)[:, None, None, :]


def _class_weights(examples: Sequence[Example]) -> Tensor:
    """Return the weight of each class of requests: one over the root of its share, mean 1."""
    labels = [one.label for one in examples if not one.is_reply]
    counts = np.bincount(labels, minlength=1 + len(REQUEST_HEADS)).astype(float)
    weights = 1 / np.sqrt(np.maximum(counts, 1))
    weights /= (weights * counts).sum() / counts.sum()
    return torch.tensor(weights, dtype=torch.float32)


def _loss(
    encoder: TunedEncoder, batch: Sequence[Example], states: Sequence[Tensor], weights: Tensor
) -> Tensor:
    logits = encoder.logits(states, is_reply=batch[0].is_reply)
    labels = torch.tensor([one.label for one in batch])
    if batch[0].is_reply:
        targets = labels.float() * (1 - 2 * _SMOOTHING) + _SMOOTHING
        return functional.binary_cross_entropy_with_logits(logits[:, 0], targets)
    return functional.cross_entropy(logits, labels, weights, label_smoothing=_SMOOTHING)


@torch.no_grad()
def _dev_scores(
    encoder: TunedEncoder, dev: Sequence[Example], states: Sequence[Tensor]
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    scores: dict[str, tuple[NDArray[np.float64], NDArray[np.bool_]]] = {}
    for name, is_reply in (("requests", False), ("replies", True)):
        own = [index for index, one in enumerate(dev) if one.is_reply == is_reply]
        own.sort(key=lambda index: len(states[index]))
        parts = []
        for start in range(0, len(own), _BATCH):
            rows = own[start : start + _BATCH]
            logits = encoder.logits([states[row] for row in rows], is_reply=is_reply)
            odds = logits[:, 0] if is_reply else logits[:, 1:].logsumexp(1) - logits[:, 0]
            parts.append(odds.numpy())
        harmful = np.array([dev[index].label > 0 for index in own])
        scores[name] = (np.concatenate(parts).astype(float), harmful)
    return scores

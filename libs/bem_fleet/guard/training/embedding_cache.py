"""Cache of window embeddings in an ``.npz`` file, keyed by the SHA-256 of the window."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bem_fleet.guard.scoring.embedding import WIDTH, MiniLM


class EmbeddingCache:
    """Embeds windows and remembers their embeddings.

    The model is loaded at the first miss only.

    Args:
        path: An ``.npz`` file, created at the first write.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._model: MiniLM | None = None
        self._vectors: dict[str, NDArray[np.float32]] = {}
        if path.exists():
            with np.load(path) as stored:
                keys = stored["keys"].tolist()
                self._vectors = dict(zip(keys, stored["vectors"], strict=True))

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors [len(texts), 384]; new ones are cached in memory only."""
        return self._embed(texts, write=False)

    def embed_and_store(self, windows: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors [len(windows), 384]; new ones are written to the file."""
        return self._embed(windows, write=True)

    def _embed(self, windows: Sequence[str], *, write: bool) -> NDArray[np.float32]:
        keys = [hashlib.sha256(window.encode()).hexdigest() for window in windows]
        missing = {
            key: window
            for key, window in zip(keys, windows, strict=True)
            if key not in self._vectors
        }
        if missing:
            self._model = self._model or MiniLM()
            vectors = self._model.embed(list(missing.values()))
            self._vectors |= dict(zip(missing, vectors, strict=True))
            if write:
                self._write()
        if not keys:
            return np.zeros((0, WIDTH), dtype=np.float32)
        return np.stack([self._vectors[key] for key in keys])

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            self._path,
            keys=np.array(list(self._vectors)),
            vectors=np.stack(list(self._vectors.values())),
        )

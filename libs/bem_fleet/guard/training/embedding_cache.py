"""Cache of window embeddings in an ``.npz`` file for each model, keyed by the window's SHA-256."""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bem.files import write_atomic
from numpy.typing import NDArray

from bem_fleet.guard.scoring.embedding import WIDTH, MiniLM
from bem_fleet.guard.scoring.multilingual import MultilingualE5
from bem_fleet.guard.scoring.tiers import Embedder

_DIGEST_DIGITS = 12
# Windows between two writings of the file: a minute of the slower model.
_STORED_AT_ONCE = 1024


class EmbeddingCache:
    """Embeds windows and remembers their embeddings.

    The model is loaded at the first miss only.

    Args:
        path: An ``.npz`` file, created at the first write.
        load_model: Returns the embedding model.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path, load_model: Callable[[], Embedder] = MiniLM) -> None:
        self.path = path
        self._load_model = load_model
        self._model: Embedder | None = None
        self._vectors: dict[str, NDArray[np.float32]] = {}
        if path.exists():
            with np.load(path) as stored:
                keys = stored["keys"].tolist()
                self._vectors = dict(zip(keys, stored["vectors"], strict=True))

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors [len(texts), 384]; new ones are cached in memory only."""
        return self._embed(texts, write=False)

    def embed_and_store(self, windows: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors [len(windows), 384]; new ones are written to the file.

        It is written every 1,024 new windows, so that an interrupted run goes on where it was.
        """
        return self._embed(windows, write=True)

    def store(self, windows: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Write embeddings [n, 384] that were computed elsewhere."""
        self._vectors |= {_key(w): vector for w, vector in zip(windows, vectors, strict=True)}
        self._write()

    def _embed(self, windows: Sequence[str], *, write: bool) -> NDArray[np.float32]:
        keys = [_key(window) for window in windows]
        missing = {
            key: window
            for key, window in zip(keys, windows, strict=True)
            if key not in self._vectors
        }
        for start in range(0, len(missing), _STORED_AT_ONCE):
            chunk = list(missing)[start : start + _STORED_AT_ONCE]
            self._model = self._model or self._load_model()
            vectors = self._model.embed([missing[key] for key in chunk])
            self._vectors |= dict(zip(chunk, vectors, strict=True))
            if write:
                self._write()
        if not keys:
            return np.zeros((0, WIDTH), dtype=np.float32)
        return np.stack([self._vectors[key] for key in keys])

    def _write(self) -> None:
        buffer = io.BytesIO()
        np.savez(
            buffer,
            keys=np.array(list(self._vectors)),
            vectors=np.stack(list(self._vectors.values())),
        )
        write_atomic(self.path, buffer.getvalue())


@dataclass(frozen=True)
class StoringEmbedder:
    """Embedding model for a scorer tier, whose embeddings outlive the process.

    Attributes:
        cache: Embeddings of one model.
    """

    cache: EmbeddingCache

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors [len(texts), 384]; new ones are written to the cache's file."""
        return self.cache.embed_and_store(texts)


@dataclass(frozen=True)
class Caches:
    """Embeddings of windows by both models.

    Attributes:
        english: Those of the tuned MiniLM.
        foreign: Those of the multilingual model.
    """

    english: EmbeddingCache
    foreign: EmbeddingCache


def _key(window: str) -> str:
    return hashlib.sha256(window.encode(errors="surrogatepass")).hexdigest()


def tuned_cache(folder: Path, adapter: Path) -> EmbeddingCache:
    """Return the cache of MiniLM with an adapter.

    Args:
        folder: Folder of the caches.
        adapter: File of the adapter; its hash names the cache.
    """
    digest = hashlib.sha256(adapter.read_bytes()).hexdigest()[:_DIGEST_DIGITS]
    return EmbeddingCache(folder / f"embeddings-{digest}.npz", lambda: MiniLM(adapter=adapter))


def multilingual_cache(folder: Path) -> EmbeddingCache:
    """Return the cache of the multilingual model."""
    return EmbeddingCache(folder / "embeddings-multilingual.npz", MultilingualE5)

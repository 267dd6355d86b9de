"""Served codes: the conditions of a version as adapters of the engine.

Each code becomes a plain adapter whose name is the digest of its numbers, so that two versions that
share a code share the adapter, and a restored version is served by the same bits. The engine pages
such adapters as all others.
"""

import asyncio
import contextlib
import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from bem.adapters.artifact import CONTROLLER_PREFIX, AdapterCard, save_adapter
from bem.artifacts import TARGET_KINDS
from bem.controller import Controller
from bem.errors import AdapterNotFoundError
from bem.online.artifact import BankArtifact
from bem.online.codebook import Codebook, Condition
from bem_fleet.serving import EngineHost
from torch import Tensor

PREFIX = "learned."
"""Beginning of the names of such adapters."""

_DIGEST_CHARS = 24


@dataclass(frozen=True, eq=False)
class Served:
    """What answers requests.

    Attributes:
        version: Number of the version; 0 is the base model.
        codebook: Conditions of the version.
        adapters: Name of the adapter of each condition.
    """

    version: int
    codebook: Codebook
    adapters: dict[str, str]


class CodeAdapters:
    """Makes adapters of codes and keeps those of the last two versions loaded.

    Args:
        host: Engine host.
        artifact: Bank of the codes.
        folder: Folder of the adapters' files; its content is made anew whenever it is missing.
    """

    def __init__(self, host: EngineHost, artifact: BankArtifact, folder: Path) -> None:
        self._host, self._artifact, self._folder = host, artifact, folder
        self._kept: list[set[str]] = []

    async def install(self, version: int, codebook: Codebook) -> Served:
        """Load the codes of a version and unload those that only older ones have.

        Requests in flight finish with the codes with which they began.

        Args:
            version: Number of the version.
            codebook: Conditions of the version.

        Raises:
            BemError: The codes do not fit the engine.
        """
        adapters = {one.name: await self._load(one) for one in codebook.conditions}
        self._kept = [*self._kept[-1:], set(adapters.values())]
        for loaded in self._host.engine.adapters():
            if loaded.name.startswith(PREFIX) and loaded.name not in set().union(*self._kept):
                await self._unload(loaded.name)
        return Served(version, codebook, adapters)

    async def _load(self, condition: Condition) -> str:
        name = adapter_name(self._artifact, condition.code)
        if self._host.engine.adapter(name) is None:
            folder = self._folder / name
            await asyncio.to_thread(write_adapter, folder, name, self._artifact, condition.code)
            await asyncio.wrap_future(self._host.engine.load_adapter(folder, name=name))
        return name

    async def _unload(self, name: str) -> None:
        with contextlib.suppress(AdapterNotFoundError):  # an operator may have unloaded it
            await self._host.unload(name)
        await asyncio.to_thread(shutil.rmtree, self._folder / name, ignore_errors=True)


def adapter_name(artifact: BankArtifact, code: Tensor) -> str:
    """Return the name of the adapter of a code ``[P]``: a digest of bank and numbers."""
    numbers = code.detach().float().contiguous().numpy().tobytes()
    digest = hashlib.sha256(artifact.card.sha256.encode() + numbers).hexdigest()
    return f"{PREFIX}{digest[:_DIGEST_CHARS]}"


def write_adapter(folder: Path, name: str, artifact: BankArtifact, code: Tensor) -> None:
    """Write a code as a plain adapter; the same code gives the same bytes.

    Args:
        folder: Folder of the adapter; created if missing.
        name: Name of the adapter.
        artifact: Bank of the code.
        code: ``[P]`` code.
    """
    card, width = artifact.card, len(artifact.whitening.mean)
    # A plain LoRA has a code of ones, which is what a fresh controller returns.
    controller = {key: torch.zeros_like(one) for key, one in _controller(width, card.rank).items()}
    tensors = {f"{CONTROLLER_PREFIX}{key}": one for key, one in controller.items()}
    for path, (a, b) in artifact.bank.adapter_factors(code).items():
        tensors |= {f"{path}.A": a.contiguous(), f"{path}.B": b.contiguous()}
    made = AdapterCard(
        name=name,
        base_name=card.base_name,
        base_digest=card.base_digest,
        feature_layer=card.feature_layer,
        layers=card.layers,
        kinds=list(TARGET_KINDS),
        rank=card.rank,
        scale=artifact.bank.scale,
        command=card.command,
        data_digest=card.data_digest,
        seed=card.seed,
        exact=True,
    )
    save_adapter(folder, made, tensors)


def _controller(width: int, rank: int) -> dict[str, Tensor]:
    return Controller(width, rank).state_dict()

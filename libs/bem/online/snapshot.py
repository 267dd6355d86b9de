"""Snapshot of a learner: bytes from which it goes on with the same bits.

A snapshot holds what feedback changed: conditions, codes, precisions, replay buffer and counters,
as one safetensors file behind its SHA-256. The bank and the codebook's calibration prompts belong
to an artifact of their own; the snapshot names it.
"""

import hashlib
import json
from dataclasses import asdict
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from bem.errors import BemError, DataFormatError
from bem.online.codebook import Codebook, CodebookSettings, Condition
from bem.online.consolidation import Consolidation, PenaltySettings
from bem.online.learner import LearnerSettings, OnlineLearner
from bem.online.natural_gradient import StepSettings
from bem.online.objective import CodeLikelihood, ObjectiveSettings
from bem.online.replay import ReplayBuffer

VERSION = 1
"""Version of the format that this code writes and reads."""

_HASH_BYTES = 32


def dump(learner: OnlineLearner, bank: str) -> bytes:
    """Return a learner as bytes.

    Args:
        learner: Learner between two updates.
        bank: Version of the bank's artifact.
    """
    tensors: dict[str, Tensor] = {"start": learner.start}
    for at, one in enumerate(learner.codebook.conditions):
        penalty = learner.penalties[one.name]
        tensors |= {
            f"{at}.key": one.key,
            f"{at}.code": one.code,
            f"{at}.center": penalty.center,
            f"{at}.precision": penalty.precision,
        }
    header = {
        "version": VERSION,
        "bank": bank,
        "settings": asdict(learner.settings),
        "codebook": asdict(learner.codebook.settings),
        "conditions": [
            {
                "name": one.name,
                "scale": one.scale,
                "events": learner.events[one.name],
                "users": sorted(learner.users[one.name]),
            }
            for one in learner.codebook.conditions
        ],
        "replay": learner.replay.export(),
        "updates": learner.updates,
    }
    # Tensors of a file share no memory, but the first code of a condition is the start code.
    whole = {name: one.contiguous().clone() for name, one in tensors.items()}
    content = save_tensors(whole, metadata={"state": json.dumps(header, sort_keys=True)})
    return hashlib.sha256(content).digest() + content


def load(content: bytes, model: CodeLikelihood, codebook: Codebook, bank: str) -> OnlineLearner:
    """Return the learner of a snapshot.

    Args:
        content: Bytes of ``dump``; they may come from anyone.
        model: Model whose likelihoods depend on a code.
        codebook: Codebook of the bank, for its whitening and calibration prompts.
        bank: Version of the bank's artifact that is loaded.

    Raises:
        DataFormatError: The bytes are no snapshot of this version, were changed, or belong to
            another bank.
    """
    header, tensors = _verified(content)
    if header.get("bank") != bank:
        raise DataFormatError(
            f"snapshot: belongs to bank {str(header.get('bank'))[:12]}; {bank[:12]} is loaded; "
            "load the bank that it was learned with"
        )
    try:
        return _learner(header, tensors, model, codebook)
    # Whatever a header may hold in place of the expected values.
    except (BemError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as err:
        raise DataFormatError(f"snapshot: its content does not fit: {str(err)[:120]}") from err


def _verified(content: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return header and tensors after hash and version were checked."""
    digest, body = content[:_HASH_BYTES], content[_HASH_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise DataFormatError("snapshot: its bytes do not have their SHA-256; restore them")
    try:
        tensors = load_tensors(body)
        header = json.loads(_metadata(body)["state"])
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError) as err:
        raise DataFormatError(f"snapshot: it is no snapshot: {str(err)[:120]}") from err
    if not isinstance(header, dict) or header.get("version") != VERSION:
        raise DataFormatError(f"snapshot: its version is not {VERSION}, which this code reads")
    return header, tensors


def _metadata(body: bytes) -> dict[str, str]:
    """Return the metadata of safetensors bytes: JSON behind its own length, 8 bytes."""
    size = int.from_bytes(body[:8], "little")
    found: dict[str, str] = json.loads(body[8 : 8 + size])["__metadata__"]
    return found


def _learner(
    header: dict[str, Any], tensors: dict[str, Tensor], model: CodeLikelihood, codebook: Codebook
) -> OnlineLearner:
    settings = _settings(header["settings"])
    rows = header["conditions"]
    conditions = [
        Condition(
            str(row["name"]),
            tensors[f"{at}.key"],
            float(row["scale"]),
            tensors[f"{at}.code"],
            int(row["events"]),
            len(row["users"]),
        )
        for at, row in enumerate(rows)
    ]
    book = Codebook(
        codebook.whitening, codebook.unrelated, conditions, CodebookSettings(**header["codebook"])
    )
    learner = OnlineLearner(model, book, tensors["start"], settings)
    width = len(learner.start)
    for at, row in enumerate(rows):
        center, precision = tensors[f"{at}.center"], tensors[f"{at}.precision"]
        square = (width, width) if settings.penalty.kind == "full" else (width,)
        if center.shape != (width,) or precision.shape != square:
            raise ValueError(f"condition {row['name']!r} has a precision {tuple(precision.shape)}")
        if center.dtype != torch.float64 or precision.dtype != torch.float64:
            raise ValueError(f"condition {row['name']!r} is not in float64")
        learner.penalties[row["name"]] = Consolidation(settings.penalty, center, precision)
        learner.users[row["name"]] = set(map(str, row["users"]))
    learner.replay = ReplayBuffer.restore(header["replay"])
    learner.updates = int(header["updates"])
    return learner


def _settings(values: dict[str, Any]) -> LearnerSettings:
    parts = {
        "step": StepSettings(**values["step"]),
        "penalty": PenaltySettings(**values["penalty"]),
        "objective": ObjectiveSettings(**values["objective"]),
    }
    return LearnerSettings(**{**values, **parts})

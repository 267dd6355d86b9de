"""Clean texts with cached teacher states, and their scrambled views, for the surface front.

The teacher is the frozen base model on the clean text. Its states at one layer and its most likely
next tokens are computed once and kept on disk; every scrambled view of the text has targets at all
tokens that end a word of both views.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bem.sep.divergences import TruncatedTeacher, truncate_teacher
from bem.sep.token_alignment import TokenAlignment
from bem.training.decoder import TrainingDecoder

_CHUNK_TOKENS = 256


@dataclass(frozen=True, eq=False)
class TaughtText:
    """Clean text with what the teacher says of it.

    Attributes:
        ids: ``[T]`` int64 token ids.
        states: ``[T, F]`` float16 states of the teacher behind the matched layer.
        teacher: Most likely next tokens at each place, ``[T, K]``.
    """

    ids: Tensor
    states: Tensor
    teacher: TruncatedTeacher


@dataclass(frozen=True, eq=False)
class ScrambledView:
    """Scrambled view of a clean text.

    Attributes:
        ids: ``[U]`` int64 token ids.
        alignment: Places at which both views have read the same words.
    """

    ids: Tensor
    alignment: TokenAlignment


DrawView = Callable[[int, float, int], ScrambledView]
"""Function from the number of a text, a rate in [0, 1] and a seed to a view of the text."""


@dataclass(frozen=True, eq=False)
class ViewBatch:
    """Views of several texts in one packed row, with the targets of their aligned tokens.

    Attributes:
        ids: ``[U]`` int64, the views one behind the other.
        lengths: Tokens of each view.
        places: ``[N]`` flat places of the aligned tokens.
        states: ``[N, F]`` float32 teacher states at them.
        teacher: ``[N, K]`` most likely next tokens at them.
        labels: ``[N]`` int64 next token of the clean text; -1 at its end.
    """

    ids: Tensor
    lengths: tuple[int, ...]
    places: Tensor
    states: Tensor
    teacher: TruncatedTeacher
    labels: Tensor


def batch_views(texts: Sequence[TaughtText], views: Sequence[ScrambledView]) -> ViewBatch:
    """Return the views of texts as one batch, in their order."""
    lengths = tuple(len(view.ids) for view in views)
    starts = torch.tensor((0, *lengths[:-1])).cumsum(0).tolist()
    pairs = list(zip(texts, views, strict=True))
    following = [torch.cat((text.ids[1:], text.ids.new_tensor([-1]))) for text in texts]
    clean = [view.alignment.clean for view in views]
    taught = [(text.teacher, view.alignment.clean) for text, view in pairs]
    return ViewBatch(
        ids=torch.cat([view.ids for view in views]),
        lengths=lengths,
        places=torch.cat(
            [view.alignment.scrambled + at for view, at in zip(views, starts, strict=True)]
        ),
        states=torch.cat([text.states[view.alignment.clean] for text, view in pairs]).float(),
        teacher=TruncatedTeacher(
            torch.cat([teacher.ids[at] for teacher, at in taught]),
            torch.cat([teacher.log_probabilities[at] for teacher, at in taught]),
        ),
        labels=torch.cat([next_ids[at] for next_ids, at in zip(following, clean, strict=True)]),
    )


def clean_view(text: TaughtText) -> ScrambledView:
    """Return the view of a text that changes nothing."""
    places = torch.arange(len(text.ids))
    return ScrambledView(text.ids, TokenAlignment(places, places))


@torch.no_grad()
def teach_text(decoder: TrainingDecoder, ids: Tensor, *, layer: int, keep: int) -> TaughtText:
    """Return a text with the teacher's states and predictions; blocks for a forward pass.

    Args:
        decoder: The frozen base model.
        ids: ``[T]`` int64 token ids.
        layer: Number of layers behind which the states are taken.
        keep: Next tokens that are kept at each place.
    """
    states = decoder.run_layers(decoder.embed(ids), [len(ids)], layers=range(layer))
    last = decoder.run_layers(states, [len(ids)], layers=range(layer, decoder.depth))
    parts = [
        truncate_teacher(decoder.logits(last[at : at + _CHUNK_TOKENS]), keep)
        for at in range(0, len(ids), _CHUNK_TOKENS)
    ]
    teacher = TruncatedTeacher(
        torch.cat([part.ids for part in parts]),
        torch.cat([part.log_probabilities for part in parts]),
    )
    return TaughtText(ids, states.half(), teacher)


def teach_texts(
    decoder: TrainingDecoder,
    texts: Sequence[Tensor],
    folder: Path,
    *,
    base_digest: str,
    layer: int,
    keep: int = 64,
) -> list[TaughtText]:
    """Return texts with what the teacher says of them, from the cache if it was computed before.

    Args:
        decoder: The frozen base model.
        texts: Token ids of each text.
        folder: Folder of the cache, one file for each set of texts.
        base_digest: SHA-256 of the base model.
        layer: Number of layers behind which the states are taken.
        keep: Next tokens that are kept at each place.
    """
    content = "\n".join(" ".join(map(str, ids.tolist())) for ids in texts)
    key = f"{base_digest}:{layer}:{keep}:{decoder.compute_dtype}:{content}"
    name = hashlib.sha256(key.encode()).hexdigest()
    path = folder / f"teacher-{name[:16]}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        taught = [teach_text(decoder, ids, layer=layer, keep=keep) for ids in texts]
        partial = path.with_suffix(".new")
        save_file(
            {
                "states": torch.cat([one.states for one in taught]),
                "ids": torch.cat([one.teacher.ids for one in taught]).int(),
                "log_probabilities": torch.cat(
                    [one.teacher.log_probabilities for one in taught]
                ).half(),
            },
            partial,
        )
        partial.replace(path)
    tensors, lengths = load_file(path), [len(ids) for ids in texts]
    parts = [tensors[one].split(lengths) for one in ("states", "ids", "log_probabilities")]
    return [
        TaughtText(ids, states, TruncatedTeacher(likely.long(), log_p.float()))
        for ids, states, likely, log_p in zip(texts, *parts, strict=True)
    ]

"""Tiny texts with a teacher, and views of them, for tests of the surface front."""

from pathlib import Path

import torch
from bem.backbone import Backbone
from bem.sep.token_alignment import TokenAlignment
from bem.testing import tiny_backbone
from bem.training.decoder import TrainingDecoder
from bem.training.sep.front_views import ScrambledView, TaughtText, teach_texts
from torch import Tensor

LAYER = 3


def tiny_decoder() -> tuple[Backbone, TrainingDecoder]:
    """Return a tiny model and its training decoder."""
    backbone = tiny_backbone()
    return backbone, TrainingDecoder(backbone, compute_dtype=torch.float32)


def text_ids(count: int = 6, length: int = 12) -> list[Tensor]:
    """Return token ids of texts, drawn once."""
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(1, 200, (length + n,), generator=generator) for n in range(count)]


def taught(folder: Path, count: int = 6) -> list[TaughtText]:
    """Return texts with the tiny model as their teacher."""
    backbone, decoder = tiny_decoder()
    return teach_texts(
        decoder, text_ids(count), folder, base_digest=backbone.digest, layer=LAYER, keep=8
    )


def shifted_view(texts: list[TaughtText], number: int, rate: float, seed: int) -> ScrambledView:
    """Return a view with one token more at its beginning and others in its places at a rate."""
    generator = torch.Generator().manual_seed(seed)
    ids = texts[number].ids.clone()
    changed = torch.rand(len(ids), generator=generator) < rate
    ids[changed] = torch.randint(1, 200, (int(changed.sum()),), generator=generator)
    places = torch.arange(len(ids))
    return ScrambledView(torch.cat((torch.tensor([33]), ids)), TokenAlignment(places, places + 1))

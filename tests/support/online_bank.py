"""Bank of the online mission for the tiny base model, with a whitening of its own states."""

import random
from pathlib import Path

import torch
from bem.controller.whitening import whitening_axes
from bem.online.artifact import BankArtifact, BankCard, read_bank, save_bank
from bem.online.codebook import Whitening
from bem.testing import tiny_backbone
from bem.training.activation_cache import prompt_ids
from bem.training.online.code_likelihood import DecoderLikelihood

from tests.support.tiny_bank import LAYERS, RANK, WIDTH, tiny_bank

FEATURE_LAYER = 0
COMPONENTS = 8
_UNRELATED = 120


def write_online_bank(folder: Path) -> BankArtifact:
    """Write a bank of random factors for the tiny base model, and return it."""
    backbone, bank = tiny_backbone(), tiny_bank()
    draw = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz    "
    texts = ["".join(draw.choices(letters, k=40)) for _ in range(2 * _UNRELATED)]
    model = DecoderLikelihood(backbone, bank, feature_layer=FEATURE_LAYER)
    states = model.states([prompt_ids(backbone, text) for text in texts])
    whitening = Whitening(*whitening_axes(states[::2], COMPONENTS))
    card = online_card(bank.scale)
    table, start = torch.ones(1, WIDTH), bank.base_code()
    keys = whitening.keys(states[1::2])
    save_bank(folder, BankArtifact(card, bank, table, start, whitening, keys))
    return read_bank(folder, base_digest=backbone.digest)


def online_card(scale: float = 2.0) -> BankCard:
    """Return the card of the bank."""
    return BankCard(
        base_name="tiny",
        base_digest=tiny_backbone().digest,
        feature_layer=FEATURE_LAYER,
        layers=list(LAYERS),
        kinds=["o_proj", "down_proj"],
        rank=RANK,
        scale=scale,
        command="python -m tests",
        data_digest="1" * 64,
        seed=0,
        families=["one"],
        components=COMPONENTS,
    )

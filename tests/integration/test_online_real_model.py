"""Online mission with the packaged model: eight corrections are learned, served and taken back.

The bank has random factors: the test shows the way from feedback to a served code and back, and not
that answers get right, for which a trained bank is needed.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from bem.adapters.site import TARGET_MODULES, default_layers
from bem.artifacts import TARGET_KINDS
from bem.backbone import PACKAGED_MODEL, load_backbone
from bem.controller.whitening import whitening_axes
from bem.online.artifact import BankArtifact, BankCard, save_bank
from bem.online.code_bank import CodeBank
from bem.online.codebook import Whitening
from bem.training.activation_cache import prompt_ids
from bem.training.online.code_likelihood import DecoderLikelihood
from bem_fleet.checkout import ROOT
from bem_fleet.services.online.canary_suite import BASIC, suite_prompts
from bemfleet.online.v1 import online_pb2 as pb
from fleet.testing import RedisServer

from tests.integration.onlines import correct, online, until, versions
from tests.support.feedback import user

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
CACHE = ROOT / ".cache" / "models"
ASKED = "What is the capital of the land of Zubrowka in the year {}?"
NEIGHBOUR = "Write a short poem about the sea."
RANK, COMPONENTS = 32, 16


def write_random_bank(folder: Path) -> None:
    """Write a bank of random factors for the packaged model."""
    backbone = load_backbone(PACKAGED_MODEL, cache=CACHE)
    first, feature = default_layers(len(backbone.layers))
    layers = range(first, len(backbone.layers))
    draw = torch.Generator().manual_seed(0)
    factors = {}
    for layer in layers:
        for path in TARGET_MODULES.values():
            module = backbone.layers[layer].get_submodule(path)
            down = torch.randn(RANK, module.in_features, generator=draw)
            up = torch.randn(module.out_features, RANK, generator=draw)
            name = f"model.layers.{layer}.{path}"
            factors[name] = (down / module.in_features**0.5).half(), (up / RANK**0.5).half()
    bank = CodeBank(factors, scale=8.0)
    texts = [one.text for one in suite_prompts(160) if one.part == BASIC]
    model = DecoderLikelihood(backbone, bank, feature_layer=feature)
    states = model.states([prompt_ids(backbone, text) for text in texts])
    whitening = Whitening(*whitening_axes(states[:50], COMPONENTS))
    card = BankCard(
        base_name=backbone.name,
        base_digest=backbone.digest,
        feature_layer=feature,
        layers=list(layers),
        kinds=list(TARGET_KINDS),
        rank=RANK,
        scale=bank.scale,
        command="python -m tests",
        data_digest="1" * 64,
        seed=0,
        families=["one"],
        components=COMPONENTS,
    )
    keys = whitening.keys(states[50:])
    table, start = torch.ones(1, bank.width), bank.base_code()
    save_bank(folder, BankArtifact(card, bank, table, start, whitening, keys))


async def answered(stub: Any, prompt: str) -> pb.GenerateResponse:
    """Return the answer to a prompt."""
    found: pb.GenerateResponse = await stub.Generate(
        pb.GenerateRequest(prompt=prompt, max_tokens=8)
    )
    return found


async def judged(stub: Any) -> pb.Version | None:
    """Return the newest version once it is judged."""
    found = await versions(stub)
    return found[0] if found and found[0].state != pb.VERSION_STATE_SHADOW else None


async def test_eight_corrections_change_their_condition_and_nothing_else(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """A year that nobody corrected meets the condition; the version is restored and forgotten."""
    await asyncio.to_thread(write_random_bank, tmp_path / "bank")
    settings = {
        "backbone": PACKAGED_MODEL,
        "cache": CACHE,
        "rank": RANK,
        "threads": 1,
        "steps": 1,
        "max_divergence": 10,
        "least_radius": 0.2,
    }
    async with online(tmp_path, redis_server, **settings) as (stub, _):
        before = await answered(stub, ASKED.format(1950))
        neighbour = await answered(stub, NEIGHBOUR)
        await correct(redis_server, [(ASKED.format(1900 + n), "Lutz") for n in range(8)])
        made = await until(lambda: judged(stub), "version", limit_s=800, step_s=2)
        learned = await answered(stub, ASKED.format(1950))
        same = await answered(stub, NEIGHBOUR)
        await stub.Restore(pb.RestoreRequest(version=0))
        restored = await answered(stub, ASKED.format(1950))
        await stub.Restore(pb.RestoreRequest(version=made.number))
        again = await answered(stub, ASKED.format(1950))
        await stub.Forget(pb.ForgetRequest(pseudonym=user(0)))
        forgotten = await answered(stub, ASKED.format(1950))

    assert [one.action for one in made.history] == ["pass", "promote"], made.history
    # The codes of another adapter answered; whether it answers right is a trained bank's matter.
    assert learned.model_version != before.model_version == restored.model_version
    assert learned.condition == made.changed
    assert (same.text, same.condition) == (neighbour.text, "")
    assert (restored.text, again.text) == (before.text, learned.text)
    assert (forgotten.text, forgotten.condition) == (before.text, "")

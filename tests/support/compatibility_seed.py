"""Artifacts of a training seed for the tiny base model, laid out as ``adapters/``."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from bem.adapters.bank import AdapterBank
from bem.backbone import Backbone
from bem.policy.artifact import save_policy
from bem.sep.front_artifact import FrontCard, save_front
from bem.sep.surface_front import fresh_factors
from bem.testing import tiny_backbone
from bem_fleet.recipes.router.step_examples import PLAN_TASKS
from bem_fleet.studies.compatibility import shared_engine
from bem_fleet.studies.compatibility.mission_items import PASSAGE_ADAPTER, MissionItem
from bem_fleet.studies.compatibility.seed_artifacts import SeedArtifacts

from tests.support.policies import tiny_policy
from tests.support.random_adapters import FEATURE_LAYER, LAYERS, write_adapter
from tests.support.random_safety_adapters import write_safety

ITEM = MissionItem(
    key="one",
    mission="router",
    passage="Anna lives in Rome.\nBen lives in Oslo.",
    question="Where does Ben live?",
    golds=("Oslo",),
    cluster="passages: one",
)
NAMED = replace(ITEM, key="two", adapter=PASSAGE_ADAPTER)


class WithholdingGuard:
    """Filters that withhold every text with a word, and count what they read."""

    def __init__(self, word: str = "secret") -> None:
        self.word, self.requests = word, 0

    def filter_requests(self, prompts: Sequence[str]) -> list["Passed"]:
        """Withhold prompts with the word."""
        self.requests += len(prompts)
        return [self._passed(one) for one in prompts]

    def filter_response(self, response: str, prompt: str = "") -> "Passed":  # noqa: ARG002
        """Withhold a response with the word."""
        return self._passed(response)

    def _passed(self, text: str) -> "Passed":
        return Passed("" if self.word in text else text)


class Passed:
    """A filtered text."""

    def __init__(self, text: str) -> None:
        self.text = text


def load_tiny() -> Backbone:
    """Return the tiny model with room for a passage of bytes."""
    return tiny_backbone(context_tokens=4096)


def write_seed(folder: Path, seed: int = 0, *, learned: bool = True) -> SeedArtifacts:
    """Write the adapters of a seed, and with ``learned`` policy, safety adapter and front."""
    backbone = load_tiny()
    for place, task in enumerate((*PLAN_TASKS, PASSAGE_ADAPTER)):
        write_adapter(folder, backbone, task, seed=10 * seed + place, constant_code=True)
    if learned:
        save_policy(folder / "policy", tiny_policy(seed, base_digest=backbone.digest))
        write_safety(folder / "safety", backbone, seed=seed + 5)
        factors = fresh_factors(backbone, range(2), 4, seed=seed)
        for _, b in factors.values():
            torch.nn.init.ones_(b)
        save_front(folder / "sep", _front_card(backbone.digest, seed), factors)
    return SeedArtifacts(seed, folder)


def tiny_sites(backbone: Backbone, *, rank: int, slots: int, **_: object) -> AdapterBank:
    """Return a bank with the sites of the random adapters, in the place of the served model's."""
    return AdapterBank(backbone, layers=LAYERS, rank=rank, slots=slots, feature_layer=FEATURE_LAYER)


TINY_SITES = (shared_engine, "open_bank", tiny_sites)
"""Arguments of ``monkeypatch.setattr``."""


def _front_card(base_digest: str, seed: int) -> FrontCard:
    return FrontCard(
        base_name="tiny",
        base_digest=base_digest,
        layers=[0, 1],
        kinds=["o_proj", "down_proj"],
        rank=4,
        scale=2.0,
        feature_layer=2,
        command="test",
        data_digest="1" * 64,
        seed=seed,
        objective="self_teaching",
    )

"""Tests of the adaptation to development families on the tiny model."""

import pytest
import torch
from bem.online.artifact import BankArtifact, BankCard
from bem.online.codebook import Whitening
from bem.testing import tiny_backbone
from bem.training.online.code_likelihood import DecoderLikelihood
from bem_fleet.data.instruction_families import family_items, instruction_families
from bem_fleet.recipes.online.adaptation import (
    AdaptationSize,
    adaptation_metrics,
    choose_start,
    feedback,
    mean_nll,
)

from tests.support.tiny_bank import LAYERS, RANK, WIDTH, tiny_bank

SIZE = AdaptationSize(corrections=6, probes=4)


def artifact() -> BankArtifact:
    """Return a random bank whose keys are states of the tiny model."""
    card = BankCard(
        base_name="tiny",
        base_digest="0" * 64,
        feature_layer=0,
        layers=list(LAYERS),
        kinds=["o_proj", "down_proj"],
        rank=RANK,
        scale=2.0,
        command="python -m x",
        data_digest="1" * 64,
        seed=0,
        families=["one", "two"],
        components=8,
    )
    table = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(0))
    whitening = Whitening(torch.zeros(32), torch.eye(32)[:, :8])
    unrelated = 9 + torch.randn(200, 8, generator=torch.Generator().manual_seed(1))
    return BankArtifact(card, tiny_bank(), table, torch.zeros(WIDTH), whitening, unrelated)


@pytest.mark.slow
def test_corrections_make_probes_likelier() -> None:
    """The adapted codes are better than the start, which is the base model here."""
    found = adaptation_metrics(tiny_backbone(), artifact(), instruction_families("dev")[:2], SIZE)

    assert found["probe_start"] == pytest.approx(found["probe_base"])
    assert found["probe_adapted"] < found["probe_start"]
    assert 0 <= found["probe_own"] + found["probe_other"] <= 1


@pytest.mark.slow
def test_start_is_the_likelier_one() -> None:
    """Of zeros and the families' mean, the one with the lower loss on the streams is chosen."""
    made, families = artifact(), instruction_families("dev")[:1]
    chosen = choose_start(tiny_backbone(), made, families, SIZE)
    model = DecoderLikelihood(tiny_backbone(), made.bank, feature_layer=0)
    examples = feedback(tiny_backbone(), family_items(families[0], "stream", SIZE.probes))
    losses = [mean_nll(model, code, examples) for code in (torch.zeros(WIDTH), made.table.mean(0))]

    assert mean_nll(model, chosen, examples) == pytest.approx(min(losses))


def test_feedback_has_the_items_tokens() -> None:
    """Events are unique, users several, and the reply ends its turn."""
    items = family_items(instruction_families("dev")[0], "stream", 9)
    examples = feedback(tiny_backbone(), items)

    assert len({one.event for one in examples}) == 9
    assert len({one.user for one in examples}) == 8
    assert all(one.reply[-1] in tiny_backbone().end_token_ids for one in examples)
    assert {one.condition for one in examples} == {items[0].family}

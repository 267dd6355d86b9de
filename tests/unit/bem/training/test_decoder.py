"""Tests of the training decoder: packed layers compute what transformers computes."""

import pytest
import torch
from bem.errors import UnsupportedBackboneError
from bem.testing import tiny_backbone
from bem.training.decoder import TrainingDecoder

from tests.support.family_models import family_backbone

SEQUENCES = [[5, 6, 7, 8], [9], [10, 11, 12, 13, 14, 15, 16]]


@pytest.mark.parametrize("positions", [None, torch.tensor([3, 4, 9])])
def test_packed_states_are_those_of_transformers(positions: torch.Tensor | None) -> None:
    """Packed or alone, each sequence ends in the states that transformers computes for it."""
    backbone = tiny_backbone()
    decoder = TrainingDecoder(backbone, compute_dtype=torch.float32)
    ids = torch.tensor([token for sequence in SEQUENCES for token in sequence])
    lengths = [len(sequence) for sequence in SEQUENCES]
    with torch.no_grad():
        hidden = decoder.run_layers(
            decoder.embed(ids), lengths, layers=range(4), positions=positions
        )
        found = decoder.final_norm(hidden)
        alone = [backbone.model.model(torch.tensor([s])).last_hidden_state[0] for s in SEQUENCES]
    expected = torch.cat(alone)

    torch.testing.assert_close(found, expected if positions is None else expected[positions])


def test_logits_are_those_of_transformers() -> None:
    """The head is applied after the final norm, in float32."""
    backbone = tiny_backbone()
    decoder = TrainingDecoder(backbone, compute_dtype=torch.float32)
    with torch.no_grad():
        hidden = decoder.run_layers(decoder.embed(torch.tensor([5, 6])), [2], layers=range(4))
        found = decoder.logits(hidden)
        expected = backbone.model(torch.tensor([[5, 6]])).logits[0]

    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


def test_zero_code_is_the_frozen_layer() -> None:
    """Factors with a code of zero change nothing; with a code of one they do."""
    decoder = TrainingDecoder(tiny_backbone(), compute_dtype=torch.float32)
    torch.manual_seed(0)
    factors = {"model.layers.3.mlp.down_proj": (torch.randn(2, 64), torch.randn(32, 2))}
    embedded = decoder.embed(torch.tensor([5, 6, 7]))

    def run(code: float) -> torch.Tensor:
        values = torch.full((1, 2), code)
        return decoder.run_layers(embedded, [3], layers=range(4), factors=factors, code=values)

    with torch.no_grad():
        frozen = decoder.run_layers(embedded, [3], layers=range(4))
        assert torch.allclose(run(0.0), frozen, atol=1e-6)
        assert not torch.allclose(run(1.0), frozen, atol=1e-2)


def test_layers_with_biases_are_refused() -> None:
    """A model whose layers are not Llama's is an error that says why."""
    backbone = tiny_backbone()
    layer = backbone.layers[0].mlp
    layer.up_proj.bias = torch.nn.Parameter(torch.zeros(64))
    with pytest.raises(UnsupportedBackboneError, match="1 biases"):
        TrainingDecoder(backbone, compute_dtype=torch.float32)
    del layer.gate_proj
    with pytest.raises(UnsupportedBackboneError, match="Llama-like layers only"):
        TrainingDecoder(backbone, compute_dtype=torch.float32)


def test_sequences_beyond_the_window_are_refused() -> None:
    """Attention has no window here; up to 16 tokens there is no difference."""
    backbone = family_backbone("mistral")
    decoder = TrainingDecoder(backbone, compute_dtype=torch.float32)
    with pytest.raises(UnsupportedBackboneError, match="17 tokens and the window 16"):
        decoder.run_layers(decoder.embed(torch.arange(20)), [17, 3], layers=range(3))
    kept: list[torch.Tensor] = []
    decoder.run_layers(decoder.embed(torch.arange(9)), [9], layers=range(3), kept=kept)
    with pytest.raises(UnsupportedBackboneError, match="17 tokens and the window 16"):
        decoder.run_layers(
            decoder.embed(torch.arange(8)), [8], layers=range(3), prefixes=[torch.stack(kept)]
        )
    ids = torch.arange(16)
    states = decoder.run_layers(decoder.embed(ids), [16], layers=range(3))
    expected = backbone.model(ids[None]).logits[0]
    assert torch.allclose(decoder.logits(states), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("variant", "named"),
    [
        ("qwen2", "biases of queries"),
        ("qwen3", "normalised queries"),
        ("granite", "multipliers"),
        ("smollm3", "without rotary"),
        ("olmo2", "norms behind"),
        ("phi3", "fused projections"),
        ("gemma", "gain of 1"),
        ("gemma3", "angles by kind"),
    ],
)
def test_families_that_training_does_not_compute_are_refused(variant: str, named: str) -> None:
    """Granite and SmolLM3 have Llama's modules, and would be trained as something else."""
    with pytest.raises(UnsupportedBackboneError, match=named):
        TrainingDecoder(family_backbone(variant), compute_dtype=torch.float32)

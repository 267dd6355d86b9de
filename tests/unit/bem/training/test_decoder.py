"""The packed decoder is the model itself, sequence by sequence."""

from pathlib import Path

import pytest
import torch
from bem.errors import UnsupportedBackboneError
from bem.testing import tiny_backbone
from bem.training.decoder import TrainingDecoder
from bem.training.features import cache_tokens
from bem.training.kernels import SiteStep
from bem.training.loss import CHUNK, HeadLoss
from bem.training.packing import fill_rows
from torch.nn.functional import cross_entropy

SEQUENCES = [[5, 6, 7, 8], [9], [10, 11, 12, 13, 14, 15, 16]]


@pytest.mark.parametrize("wanted", [None, torch.tensor([3, 4, 9])])
def test_packed_states_are_those_of_transformers(wanted: torch.Tensor | None) -> None:
    """Packed or alone, each sequence ends in the states that transformers computes for it."""
    backbone = tiny_backbone()
    decoder = TrainingDecoder(backbone, arithmetic=torch.float32)
    ids = torch.tensor([token for sequence in SEQUENCES for token in sequence])
    lengths = [len(sequence) for sequence in SEQUENCES]
    with torch.no_grad():
        hidden = decoder.run(decoder.embed(ids), lengths, layers=range(4), wanted=wanted)
        found = decoder.normed(hidden)
        alone = [backbone.model.model(torch.tensor([s])).last_hidden_state[0] for s in SEQUENCES]
    whole = torch.cat(alone)

    torch.testing.assert_close(found, whole if wanted is None else whole[wanted])


def test_head_loss_is_cross_entropy() -> None:
    """Value and gradient over several chunks are those of the logits in one piece."""
    torch.manual_seed(0)
    states = torch.randn(CHUNK + 7, 8, requires_grad=True)
    head, labels = torch.randn(30, 8), torch.randint(30, (CHUNK + 7,))
    wanted = cross_entropy(states @ head.T, labels, reduction="sum")
    (gradient,) = torch.autograd.grad(wanted, states)
    found = HeadLoss.apply(states, head, labels)

    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(torch.autograd.grad(found, states)[0], gradient)


def test_rows_hold_each_sequence_once_within_the_limit() -> None:
    """Rows respect their limit, a longer sequence stands alone, nothing is lost."""
    rows = fill_rows([5, 30, 4, 6, 1], 10)

    assert sorted(index for row in rows for index in row) == [0, 1, 2, 3, 4]
    assert rows == [[1], [3, 2], [0, 4]]


def test_mapped_states_are_those_in_memory(tmp_path: Path) -> None:
    """A second run maps the file of the first; other data gets a file of its own."""
    pairs = [(s, [3, 4]) for s in SEQUENCES]
    backbone = tiny_backbone()

    def encode(count: int, folder: Path | None) -> list[torch.Tensor]:
        found = cache_tokens(backbone, pairs[:count], first_layer=2, feature_layer=0, folder=folder)
        return [example.hidden for example in found]

    kept = encode(3, None)
    for _ in range(2):
        for mapped, wanted in zip(encode(3, tmp_path), kept, strict=True):
            assert torch.equal(mapped, wanted)
    encode(2, tmp_path)

    assert len(list(tmp_path.iterdir())) == 2


def test_layers_with_biases_are_refused() -> None:
    """A model whose layers are not Llama's is an error that says why."""
    backbone = tiny_backbone()
    layer = backbone.layers[0].mlp
    layer.up_proj.bias = torch.nn.Parameter(torch.zeros(64))
    with pytest.raises(UnsupportedBackboneError, match="biases"):
        TrainingDecoder(backbone, arithmetic=torch.float32)


def test_site_and_residual_are_rounded_once() -> None:
    """In bfloat16 two steps of 0.75 onto 256, whose next number is 258, are not both lost."""
    one = torch.ones(1, 1, dtype=torch.bfloat16)
    part = one * 0.75
    found = SiteStep.apply(one * 256, one, part, part, one, one)

    assert found.item() == 258

"""Tests of the activation cache: states, features, labels and the mapped file."""

from pathlib import Path

import pytest
import torch
from bem.testing import tiny_backbone
from bem.training.activation_cache import (
    IGNORED_LABEL,
    cache_key,
    encode_items,
    encode_sequences,
    mean_prompt_states,
    prompt_ids,
    tokenise,
)

from tests.support.tiny_training import Item

PAIRS = [([5, 6, 7, 8], [3, 4]), ([9], [3, 4]), ([10, 11, 12, 13, 14, 15, 16], [3, 4])]


def test_mapped_states_are_those_in_memory(tmp_path: Path) -> None:
    """A second run maps the file of the first; other data gets a file of its own."""
    backbone = tiny_backbone()

    def encode(count: int, folder: Path | None) -> list[torch.Tensor]:
        found = encode_sequences(
            backbone, PAIRS[:count], first_layer=2, feature_layer=0, folder=folder
        )
        return [example.hidden for example in found]

    in_memory = encode(3, None)
    for _ in range(2):
        for mapped, expected in zip(encode(3, tmp_path), in_memory, strict=True):
            assert torch.equal(mapped, expected)
    encode(2, tmp_path)

    assert len(list(tmp_path.iterdir())) == 2


def test_states_and_labels_are_those_of_the_model() -> None:
    """States are the input of the first layer with sites; labels are the next reply token."""
    backbone = tiny_backbone()
    prompt, reply = PAIRS[0]
    (example,) = encode_sequences(backbone, PAIRS[:1], first_layer=2, feature_layer=0)
    states = backbone.model(torch.tensor([prompt + reply]), output_hidden_states=True).hidden_states

    assert torch.allclose(example.hidden, states[2][0], atol=1e-4)
    assert torch.allclose(example.feature, states[1][0, :4].mean(0), atol=1e-4)
    assert example.labels.tolist() == [*[IGNORED_LABEL] * 3, 3, 4, IGNORED_LABEL]


def test_token_ids_are_cached_if_no_layer_is_below_the_sites() -> None:
    """With sites in the first layer the states are the ids themselves."""
    (example,) = encode_sequences(tiny_backbone(), PAIRS[1:2], first_layer=0, feature_layer=-1)

    assert example.hidden.tolist() == [9, 3, 4]


def test_items_are_rendered_and_long_ones_left_out() -> None:
    """The prompt uses the chat template, the reply ends its turn."""
    backbone = tiny_backbone()
    items = [Item("hi", "yes"), Item("x" * 200, "no")]
    prompt, reply = tokenise(backbone, items[0])

    assert prompt == prompt_ids(backbone, "hi")
    assert reply[-1] in backbone.end_token_ids
    assert backbone.tokenizer.decode(reply[:-1]) == "yes"
    assert len(encode_items(backbone, items, first_layer=2, feature_layer=0, max_tokens=100)) == 1


def test_key_covers_all_that_states_depend_on() -> None:
    """Another model, other tokens or other layers have another file."""
    keys = {
        cache_key(tiny_backbone(), PAIRS, 2, 0),
        cache_key(tiny_backbone(1), PAIRS, 2, 0),
        cache_key(tiny_backbone(), PAIRS[:1], 2, 0),
        cache_key(tiny_backbone(), PAIRS, 3, 0),
        cache_key(tiny_backbone(), PAIRS, 2, 1),
    }

    assert len(keys) == 5


def test_impossible_requests_are_named() -> None:
    """The feature layer must be below the sites, and there must be a sequence."""
    with pytest.raises(ValueError, match="not below the sites 1"):
        encode_sequences(tiny_backbone(), PAIRS, first_layer=1, feature_layer=1)
    with pytest.raises(ValueError, match="no sequence to encode"):
        encode_sequences(tiny_backbone(), [], first_layer=2, feature_layer=0)


def test_mean_prompt_states_are_those_of_the_model(tmp_path: Path) -> None:
    """A value head is fitted on the same features that it reads when it serves."""
    backbone = tiny_backbone()
    (found,) = mean_prompt_states(backbone, ["hello"], 0, tmp_path)
    ids = torch.tensor([prompt_ids(backbone, "hello")])
    layer = backbone.model(ids, output_hidden_states=True).hidden_states[1]

    assert torch.allclose(found, layer[0].float().mean(0), atol=1e-4)

"""Embeddings of texts by the tiny model."""

from pathlib import Path

import pytest
import torch
from bem.errors import InvalidRequestError
from bem.sep.embedding_head import EmbeddingHead
from bem_fleet.services.sep.text_embedding import TextEmbedder

from tests.unit.services.sep.hosts import tiny_host

TEXTS = ["the old ship", "north", "a much longer text about the harbour", "<|im_end|>"]


async def test_embeddings_do_not_depend_on_batches_or_on_the_form_of_the_input(
    tmp_path: Path,
) -> None:
    """Texts together, alone and as token ids have the same embedding; tokens are counted."""
    async with tiny_host(tmp_path) as host:
        head = EmbeddingHead(32, 32).requires_grad_(requires_grad=False)
        wide = TextEmbedder(host, head, batch_tokens=4096)
        narrow = TextEmbedder(host, head, batch_tokens=16)
        together = await wide.embed(TEXTS)
        apart = await narrow.embed(TEXTS)
        ids = host.backbone.tokenizer.encode(TEXTS[0], add_special_tokens=False)
        by_ids = await wide.embed([ids])
        short = await wide.embed(TEXTS, 4)

    assert together.tokens == sum(len(one.encode()) for one in TEXTS)
    assert torch.allclose(together.embeddings, apart.embeddings, atol=1e-5)
    assert torch.allclose(together.embeddings[0], by_ids.embeddings[0], atol=1e-5)
    assert torch.allclose(together.embeddings.norm(dim=-1), torch.ones(4), atol=1e-5)
    expected = torch.nn.functional.normalize(together.embeddings[:, :4], dim=-1)
    assert torch.allclose(short.embeddings, expected, atol=1e-5)


async def test_inputs_that_cannot_be_embedded_are_named(tmp_path: Path) -> None:
    """The error has the number of the input and the limit."""
    async with tiny_host(tmp_path) as host:
        head = EmbeddingHead(32, 32).requires_grad_(requires_grad=False)
        embedder = TextEmbedder(host, head, batch_tokens=4096)
        control = host.backbone.tokenizer.all_special_ids[0]
        for inputs, message in (
            (["a", ""], r"inputs\[1\]: has 0 tokens; 1 to 256"),
            (["x" * 257], r"inputs\[0\]: has 257 tokens"),
            ([[5], [10**6]], r"inputs\[1\]: 1000000 is no token"),
            ([[control]], r"inputs\[0\]: \d+ is a control token"),
        ):
            with pytest.raises(InvalidRequestError, match=message):
                await embedder.embed(inputs)
        with pytest.raises(InvalidRequestError, match="dimensions: 33 is out of range; 1 to 32"):
            await embedder.embed(["a"], 33)

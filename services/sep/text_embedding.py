"""Embeddings of texts and token ids, computed by the engine between its decode steps."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from bem.errors import InvalidRequestError
from bem.prompt_encoding import PromptEncoder
from bem.sep.embedding_head import EmbeddingHead
from bem_fleet.serving import EngineHost
from torch import Tensor

MODEL = "sep-embedding"
"""Name of the embedding model in requests."""


@dataclass(frozen=True, eq=False)
class EmbeddedTexts:
    """Embeddings of one request.

    Attributes:
        embeddings: ``[N, D]`` float32, each of length 1.
        tokens: Tokens of all texts.
    """

    embeddings: Tensor
    tokens: int


class TextEmbedder:
    """Embeds texts with the host's model.

    Args:
        host: Engine host.
        head: Map of pooled states to embeddings.
        batch_tokens: Tokens that the engine pools between two decode steps; a longer text is a
            batch of its own.
    """

    def __init__(self, host: EngineHost, head: EmbeddingHead, *, batch_tokens: int) -> None:
        self.host, self.head, self._batch_tokens = host, head, batch_tokens
        tokenizer = host.backbone.tokenizer
        self._encoder = PromptEncoder(tokenizer)
        self._vocabulary, self._control = len(tokenizer), frozenset(tokenizer.all_special_ids)

    async def embed(
        self, inputs: Sequence[str | Sequence[int]], dimensions: int | None = None
    ) -> EmbeddedTexts:
        """Return the embeddings of texts in their order.

        Args:
            inputs: Texts, or the token ids of texts.
            dimensions: Leading dimensions that are kept; None for all.

        Raises:
            InvalidRequestError: A text is empty or too long, an id is no token of a text, or the
                dimensions are out of range.
        """
        limit = self.head.dimensions
        if dimensions is not None and not 1 <= dimensions <= limit:
            raise InvalidRequestError(
                "dimensions", f"{dimensions} is out of range; 1 to {limit} are allowed"
            )
        texts = await asyncio.to_thread(self._encode, inputs)
        pooled = torch.empty(len(texts), self.host.backbone.model.config.hidden_size)
        for batch in self._batches([len(ids) for ids in texts]):
            computed = self.host.engine.embed([texts[row] for row in batch])
            states: Tensor = await asyncio.wrap_future(computed)
            pooled[batch] = states
        with torch.inference_mode():
            embeddings = self.head(pooled, dimensions)
        return EmbeddedTexts(embeddings, sum(len(ids) for ids in texts))

    def _encode(self, inputs: Sequence[str | Sequence[int]]) -> list[list[int]]:
        limit = self.host.context_tokens
        texts = []
        for number, one in enumerate(inputs):
            ids = self._encoder.encode_text(one) if isinstance(one, str) else list(one)
            if not isinstance(one, str):
                self._check_ids(number, ids)
            if not 1 <= len(ids) <= limit:
                raise InvalidRequestError(
                    f"inputs[{number}]",
                    f"has {len(ids)} tokens; 1 to {limit} are allowed; "
                    f"{'shorten it' if ids else 'write a text'}",
                )
            texts.append(ids)
        return texts

    def _check_ids(self, number: int, ids: Sequence[int]) -> None:
        wrong = next((one for one in ids if not 0 <= one < self._vocabulary), None)
        if wrong is not None:
            raise InvalidRequestError(
                f"inputs[{number}]",
                f"{wrong} is no token of the model; ids are 0 to {self._vocabulary - 1}",
            )
        control = next((one for one in ids if one in self._control), None)
        if control is not None:
            raise InvalidRequestError(
                f"inputs[{number}]", f"{control} is a control token; send tokens of text only"
            )

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Yield rows of similar length whose padded tokens are at most those of a batch."""
        batch: list[int] = []
        for row in sorted(range(len(lengths)), key=lambda one: lengths[one]):
            if batch and (len(batch) + 1) * lengths[row] > self._batch_tokens:
                yield batch
                batch = []
            batch.append(row)
        yield batch

"""Evaluation system of a mixture of adapters that peft computes."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from bem.backbone import Backbone
from bem.digests import file_digest
from bem.errors import EvaluationError
from bem.prompt_encoding import PromptEncoder

from bem_fleet.evaluation.systems import Chat, Decoding, Response


class MixtureSystem:
    """System that answers with X-LoRA or Arrow, one conversation after another.

    Args:
        model: Model of ``bem_fleet.recipes.router.adapter_mixtures``.
        backbone: Base model that it mixes adapters into.
        name: Name in reports.
        files: Files of weights that determine the responses beside the base model.
    """

    def __init__(self, model: Any, backbone: Backbone, name: str, files: Sequence[Path]) -> None:
        self.name = name
        hashes = [file_digest(file) for file in files]
        text = f"{backbone.digest}|{name}|{hashes}"
        self.digest = hashlib.sha256(text.encode()).hexdigest()
        self._model = model
        self._backbone = backbone
        self._encoder = PromptEncoder(backbone.tokenizer)

    def respond(
        self, chats: Sequence[Chat], decoding: Decoding, seed: int
    ) -> Iterator[tuple[int, Response]]:
        """Answer all conversations and yield (index, response).

        Args:
            chats: Conversations, each with the user's message last.
            decoding: Decoding settings; the temperature is 0.
            seed: Unused, as decoding is greedy.

        Raises:
            EvaluationError: The temperature is above 0.
        """
        del seed
        if decoding.temperature:
            raise EvaluationError(
                f"temperature: {decoding.temperature:g}; {self.name} decodes greedily, use 0"
            )
        for index, chat in enumerate(chats):
            yield index, self._answer(chat, decoding.max_tokens)

    @torch.no_grad()
    def _answer(self, chat: Chat, max_tokens: int) -> Response:
        messages = [{"role": turn.role, "content": turn.content} for turn in chat]
        ids = torch.tensor([self._encoder.encode_chat(messages)])
        ends = sorted(self._backbone.end_token_ids)
        whole = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_tokens,
            do_sample=False,
            eos_token_id=ends,
            pad_token_id=ends[0],
        )
        reply = [token for token in whole[0, ids.shape[1] :].tolist() if token not in ends]
        text = self._backbone.tokenizer.decode(reply, skip_special_tokens=True)
        return Response(text.strip(), ids.shape[1], len(reply))

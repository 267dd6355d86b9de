"""What the safety adapter learns from: attacks and a refusal, harmless prompts and base replies."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from bem.backbone import Backbone
from bem.engine import LLMEngine
from bem.errors import DataFormatError
from bem.journal import Journal
from bem.training.features import Example, Tokens, cache_tokens
from torch import Tensor

from bem_fleet.data.harmless import HarmlessPrompt, load_harmless
from bem_fleet.data.red_team import RedTeamPrompt, load_red_team, sample
from bem_fleet.evaluation.in_process import WorkerSystem
from bem_fleet.evaluation.systems import Decoding, Message

REFUSAL = "I'm sorry, but I can't help with that."
OPENING_TOKENS = 6
REPLY_TOKENS = 16
LONGEST = 450


@dataclass(frozen=True)
class SafetyExamples:
    """The two sides of the training.

    Attributes:
        attacks: By category; the reply is the refusal.
        harmless: The reply is the base model's own.
        digest: SHA-256 over all keys, hexadecimal.
    """

    attacks: dict[str, list[Example]]
    harmless: list[Example]
    digest: str


def prompt_ids(backbone: Backbone, text: str) -> list[int]:
    """Return the token ids of a rendered message, ready for a reply."""
    chat = [{"role": "user", "content": text}]
    whole = backbone.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids: list[int] = backbone.tokenizer.encode(whole, add_special_tokens=False)
    return ids


def refusal_ids(backbone: Backbone) -> list[int]:
    """Return the token ids of the refusal with its end of turn."""
    ids: list[int] = backbone.tokenizer.encode(REFUSAL, add_special_tokens=False)
    return [*ids, min(backbone.end_token_ids)]


def base_replies(
    backbone: Backbone, prompts: Sequence[tuple[str, str]], *, tokens: int, cache: Path
) -> list[str]:
    """Return the base model's greedy replies, from a journal where it has them.

    Args:
        backbone: Without sites.
        prompts: Key and text of each.
        tokens: Longest reply.
        cache: JSONL journal; one file for one backbone and length.
    """
    dtype = str(backbone.model.dtype).removeprefix("torch.")
    journal = Journal(cache / f"base-{backbone.digest[:12]}-{dtype}-{tokens}.jsonl")
    known = {row["prompt_id"]: str(row["reply"]) for row in journal.rows()}
    missing = [(key, text) for key, text in dict(prompts).items() if key not in known]
    if missing:
        worker = LLMEngine(backbone, max_sequences=32, max_waiting=len(missing), context_tokens=512)
        worker.start()
        chats = [(Message("user", text),) for _, text in missing]
        for place, answer in WorkerSystem(worker).answer(chats, Decoding(max_tokens=tokens), 0):
            known[missing[place][0]] = answer.text
            journal.add({"prompt_id": missing[place][0], "reply": answer.text})
        worker.close(drain=True)
    return [known[key] for key, _ in prompts]


def load_examples(
    backbone: Backbone,
    *,
    first_layer: int,
    feature_layer: int,
    attacks: int,
    harmless: int,
    cache: Path,
) -> SafetyExamples:
    """Read, render and encode both sides of the training split.

    Args:
        backbone: Without sites below ``first_layer``.
        first_layer: First decoder layer of the safety adapter.
        feature_layer: Layer that the value head reads.
        attacks: How many attacks, the categories in turn.
        harmless: How many harmless prompts.
        cache: For base replies and encoded states.

    Raises:
        DataFormatError: A category has no attack.
    """
    hostile = sample(load_red_team(), "train", attacks, longest=LONGEST)
    benign = [p for p in load_harmless("train") if not p.adapter and len(p.text) <= LONGEST]
    benign = benign[:harmless]
    replies = base_replies(
        backbone, [(p.key, p.text) for p in benign], tokens=REPLY_TOKENS, cache=cache
    )
    refusal = refusal_ids(backbone)
    encode = backbone.tokenizer.encode
    sequences: list[Tokens] = [(prompt_ids(backbone, p.text), refusal) for p in hostile]
    kept = [(p, r) for p, r in zip(benign, replies, strict=True) if r]
    sequences += [(prompt_ids(backbone, p.text), encode(r)) for p, r in kept]
    examples = cache_tokens(
        backbone,
        sequences,
        first_layer=first_layer,
        feature_layer=feature_layer,
        folder=cache / "features",
    )
    by_category: dict[str, list[Example]] = {}
    for prompt, example in zip(hostile, examples, strict=False):
        by_category.setdefault(prompt.category, []).append(example)
    if not by_category:
        raise DataFormatError("the training split has no attack")
    return SafetyExamples(by_category, examples[len(hostile) :], _digest(hostile, benign))


def mean_states(
    backbone: Backbone, texts: Sequence[str], feature_layer: int, cache: Path
) -> Tensor:
    """Return the mean state of a layer over each rendered prompt, ``[S, F]`` float32."""
    examples = cache_tokens(
        backbone,
        [(prompt_ids(backbone, text), []) for text in texts],
        first_layer=feature_layer + 1,
        feature_layer=feature_layer,
        folder=cache / "features",
    )
    return torch.stack([example.feature for example in examples])


def _digest(attacks: Sequence[RedTeamPrompt], benign: Sequence[HarmlessPrompt]) -> str:
    whole = hashlib.sha256()
    for key in [*(one.key for one in attacks), *(one.key for one in benign)]:
        whole.update(f"{key}\n".encode())
    return whole.hexdigest()

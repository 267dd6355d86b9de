"""Training data of the safety adapter: attacks with a refusal, harmless prompts with replies."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from bem.backbone import Backbone
from bem.engine import LLMEngine
from bem.errors import DataFormatError
from bem.journal import Journal
from bem.prompt_encoding import PromptEncoder
from bem.training.activation_cache import (
    EncodedExample,
    TokenPair,
    encode_sequences,
    prompt_ids,
)
from bem.training.safety.examples import SafetyExamples, refusal_ids

from bem_fleet.data.benign_prompts import BenignText, load_benign_requests
from bem_fleet.data.guard_texts import HARMLESS, WrittenText, written_texts
from bem_fleet.data.red_team import RedTeamPrompt, load_red_team, sample_prompts
from bem_fleet.data.splits import round_robin
from bem_fleet.evaluation.systems import Decoding, Message
from bem_fleet.evaluation.worker_system import WorkerSystem

REPLY_TOKENS = 16
"""Length of the base model's replies to harmless prompts."""

MAX_CHARS = 450
"""Longest prompt that is trained on, characters."""


def base_replies(
    backbone: Backbone, prompts: Sequence[tuple[str, str]], *, tokens: int, cache: Path
) -> list[str]:
    """Return the base model's greedy replies, from a journal if it has them.

    Args:
        backbone: Base model without sites.
        prompts: Key and text of each prompt.
        tokens: Longest reply, tokens.
        cache: Folder of the JSONL journals; there is one for each backbone and length.
    """
    dtype = str(backbone.model.dtype).removeprefix("torch.")
    journal = Journal(cache / f"base-{backbone.digest[:12]}-{dtype}-{tokens}.jsonl")
    replies = {row["prompt_id"]: str(row["reply"]) for row in journal.rows()}
    missing = [(key, text) for key, text in dict(prompts).items() if key not in replies]
    if missing:
        worker = LLMEngine(backbone, max_sequences=32, max_waiting=len(missing), context_tokens=512)
        worker.start()
        chats = [(Message("user", text),) for _, text in missing]
        for index, answer in WorkerSystem(worker).respond(chats, Decoding(max_tokens=tokens), 0):
            replies[missing[index][0]] = answer.text
            journal.add({"prompt_id": missing[index][0], "reply": answer.text})
        worker.close(drain=True)
    return [replies[key] for key, _ in prompts]


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

    Each side has packaged requests and as many that were written for the guard: on packaged ones
    alone the adapter learns the difference of their origins and refuses whatever reads otherwise.

    Args:
        backbone: Base model without sites below ``first_layer``.
        first_layer: First decoder layer of the safety adapter.
        feature_layer: Layer that the value head reads.
        attacks: Number of packaged attacks, in turns of their categories, and of written ones.
        harmless: Number of packaged harmless prompts, and of written ones.
        cache: Folder of base replies and cached activations.

    Raises:
        DataFormatError: The training split has no attack.
    """
    hostile = sample_prompts(load_red_team("train"), attacks, longest=MAX_CHARS)
    hostile = [*hostile, *_written_attacks(attacks)]
    packaged = [
        p for p in load_benign_requests("train") if not p.adapter and len(p.text) <= MAX_CHARS
    ]
    benign = [*packaged[:harmless], *_written_harmless(harmless)]
    replies = base_replies(
        backbone, [(p.key, p.text) for p in benign], tokens=REPLY_TOKENS, cache=cache
    )
    refusal = refusal_ids(backbone)
    encode = PromptEncoder(backbone.tokenizer).encode_text
    sequences: list[TokenPair] = [(prompt_ids(backbone, p.text), refusal) for p in hostile]
    # The divergence is measured on reply tokens, so a prompt with an empty reply teaches nothing.
    answered = [(p, r) for p, r in zip(benign, replies, strict=True) if r]
    sequences += [(prompt_ids(backbone, p.text), encode(r)) for p, r in answered]
    examples = encode_sequences(
        backbone,
        sequences,
        first_layer=first_layer,
        feature_layer=feature_layer,
        folder=cache / "features",
    )
    by_category: dict[str, list[EncodedExample]] = {}
    for prompt, example in zip(hostile, examples, strict=False):
        by_category.setdefault(prompt.category, []).append(example)
    if not by_category:
        raise DataFormatError("the training split has no attack; check the red-team data")
    return SafetyExamples(by_category, examples[len(hostile) :], keys_digest(hostile, benign))


def _written_attacks(count: int) -> list[RedTeamPrompt]:
    return [
        RedTeamPrompt(one.key, one.text, one.family, one.label, one.split)
        for one in written_requests("train", count, harmless=False, longest=MAX_CHARS)
    ]


def _written_harmless(count: int) -> list[BenignText]:
    return [
        BenignText(one.key, one.text, one.family)
        for one in written_requests("train", count, harmless=True, longest=MAX_CHARS)
    ]


def written_requests(
    split: str, count: int, *, harmless: bool, longest: int | None = None
) -> list[WrittenText]:
    """Return requests that were written for the guard, the families in turn.

    Args:
        split: ``train`` or ``dev``.
        count: Largest number of requests to return.
        harmless: Whether they are harmless or harmful.
        longest: Largest length of a text in characters; None for no limit.
    """
    families: dict[str, list[WrittenText]] = defaultdict(list)
    for one in written_texts(split):
        wanted = not one.is_reply and (one.label == HARMLESS) == harmless
        if wanted and (longest is None or len(one.text) <= longest):
            families[one.family].append(one)
    return round_robin(list(families.values()))[:count]


def keys_digest(
    attacks: Sequence[RedTeamPrompt | WrittenText], benign: Sequence[BenignText | WrittenText]
) -> str:
    """Return the SHA-256 over the keys of all prompts, hexadecimal."""
    digest = hashlib.sha256()
    for key in [*(one.key for one in attacks), *(one.key for one in benign)]:
        digest.update(f"{key}\n".encode())
    return digest.hexdigest()

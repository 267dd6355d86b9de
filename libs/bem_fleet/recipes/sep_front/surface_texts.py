"""Texts of the surface front, and their scrambled views as token ids.

A text has a part that people write, which is scrambled, and the chat template and reply around it,
which are not. Texts are questions about passages with their replies, requests, and plain passages.
The questions of BoolQ and NarrativeQA are left out: they are an unseen domain of evaluations.
"""

import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from bem.backbone import Backbone
from bem.sep.retokenization import SplitTable
from bem.sep.token_alignment import TokenAlignment, align_tokens
from bem.training.sep.front_views import ScrambledView
from torch import Tensor

from bem_fleet.data.benign_prompts import load_benign_requests, load_benign_responses
from bem_fleet.data.passage_qa import load_passage_qa
from bem_fleet.data.scrambles.catalogue import SCRAMBLE_KINDS, scramble_text, training_kinds

UNSEEN_DOMAINS = ("boolq", "narrative-qa")
"""Origins that no training of the front reads."""

TRAINING_TYPOS = tuple(name for name in training_kinds("surface") if name.startswith("typo-"))
"""Typing errors of the training."""

HELD_OUT_TYPOS = tuple(
    name for name, kind in SCRAMBLE_KINDS.items() if kind.held_out and name.startswith("typo-")
)
"""Typing errors that no training uses."""

PLAIN_CHARS = 400
"""Characters of a plain passage."""

SPLIT_RATE = 0.1
"""Share of the tokens that re-tokenisation splits at a rate of scrambles of one."""


@dataclass(frozen=True)
class SurfaceText:
    """A text and what stands around it.

    Attributes:
        before: Text of the template before it.
        text: What a person wrote.
        after: Text of the template behind it, with the reply if there is one.
    """

    before: str
    text: str
    after: str


def surface_texts(
    split: str, tokenizer: Any, counts: tuple[int, int, int], *, seed: int = 0
) -> list[SurfaceText]:
    """Return questions with replies, requests and plain passages of a split.

    Args:
        split: ``train`` or ``dev``.
        tokenizer: Tokenizer with the chat template.
        counts: Number of each of the three.
        seed: Seed of the choice.

    Raises:
        DataNotFoundError: A package with a dataset is not installed.
    """
    questions = load_passage_qa().splits[split]
    requests, passages = (
        [one.text for one in load(split) if one.family not in (*UNSEEN_DOMAINS, "disfl-qa")]
        for load in (load_benign_requests, load_benign_responses)
    )
    rng = random.Random(seed)  # noqa: S311 - a choice of texts, no secret
    before, after = template_parts(tokenizer)
    asked = [
        SurfaceText(before, one.prompt(), after + one.reply())
        for one in _choose(rng, questions, counts[0])
    ]
    plain = [SurfaceText("", one[:PLAIN_CHARS], "") for one in _choose(rng, passages, counts[2])]
    requested = [SurfaceText(before, one, after) for one in _choose(rng, requests, counts[1])]
    return [*asked, *requested, *plain]


def _choose(rng: random.Random, items: Sequence[Any], count: int) -> list[Any]:
    return rng.sample(list(items), min(count, len(items)))


def template_parts(tokenizer: Any) -> tuple[str, str]:
    """Return what the chat template writes before a user message and behind it."""
    mark = "\x00"
    rendered: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": mark}], tokenize=False, add_generation_prompt=True
    )
    before, _, after = rendered.partition(mark)
    return before, after


class ViewEncoder:
    """Encodes texts and their scrambled views.

    Args:
        backbone: Base model.
        texts: Texts, by whose numbers views are drawn.
    """

    def __init__(self, backbone: Backbone, texts: Sequence[SurfaceText]) -> None:
        self._tokenizer, self.texts = backbone.tokenizer, texts
        size = len(self._tokenizer)
        vocabulary = self._tokenizer.convert_ids_to_tokens(list(range(size)))
        special = set(self._tokenizer.all_special_ids)
        self._splits = SplitTable(
            ["" if place in special else text for place, text in enumerate(vocabulary)]
        )

    def clean_ids(self) -> list[Tensor]:
        """Return the token ids of each clean text."""
        return [torch.cat(self._parts(text)) for text in self.texts]

    def digest(self) -> str:
        """Return the SHA-256 of the texts, hexadecimal."""
        content = "\x00".join(one.before + one.text + one.after for one in self.texts)
        return hashlib.sha256(content.encode()).hexdigest()

    def training_view(self, number: int, rate: float, seed: int) -> ScrambledView:
        """Return a view with a typing error, case, spacing and splits of the training, each maybe.

        Args:
            number: Number of the text.
            rate: Share of the places that change, in [0, 1].
            seed: Seed of the view.
        """
        rng = np.random.default_rng(seed)
        kinds = [str(rng.choice(TRAINING_TYPOS))]
        kinds += [name for name in ("case", "whitespace") if rng.random() < 0.5]
        return self.view(number, kinds, rate, rng, split_rate=SPLIT_RATE * rate)

    def view(
        self,
        number: int,
        kinds: Iterable[str],
        rate: float,
        rng: np.random.Generator,
        *,
        split_rate: float = 0.0,
    ) -> ScrambledView:
        """Return the view of a text under scrambles.

        Args:
            number: Number of the text.
            kinds: Keys of ``SCRAMBLE_KINDS``, in the order of application; at least one.
            rate: Share of the places that each kind changes, in [0, 1].
            rng: Source of randomness.
            split_rate: Share of the tokens that are split in two.
        """
        text = self.texts[number]
        chain = scramble_text(text.text, list(kinds), rate, rng)
        clean_spans, _ = self._spans(text.text)
        spans, ids = self._spans(chain.text)
        inner = align_tokens(chain.aligned_ends(), clean_spans, spans)
        split = self._splits.split(np.array(ids, np.int64), split_rate, rng)
        moved = torch.from_numpy(split.last_places())[inner.scrambled]
        before, _, after = self._parts(text)
        body = torch.from_numpy(split.ids)
        return ScrambledView(
            torch.cat((before, body, after)),
            _around(before, after, inner.clean, moved, (len(clean_spans), len(body))),
        )

    def _parts(self, text: SurfaceText) -> tuple[Tensor, Tensor, Tensor]:
        parts = [
            self._tokenizer.encode(text.before, add_special_tokens=False),
            self._spans(text.text)[1],
            self._tokenizer.encode(text.after, add_special_tokens=False),
        ]
        before, body, after = (torch.tensor(ids, dtype=torch.int64) for ids in parts)
        return before, body, after

    def _spans(self, text: str) -> tuple[list[tuple[int, int]], list[int]]:
        encoded = self._tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True
        )
        return encoded["offset_mapping"], encoded["input_ids"]


def _around(
    before: Tensor, after: Tensor, clean: Tensor, scrambled: Tensor, sizes: tuple[int, int]
) -> TokenAlignment:
    """Return the alignment of a text together with the template, which no scramble changes."""
    head, tail = torch.arange(len(before)), torch.arange(len(after))
    clean_size, scrambled_size = (len(before) + size for size in sizes)
    return TokenAlignment(
        torch.cat((head, clean + len(before), tail + clean_size)),
        torch.cat((head, scrambled + len(before), tail + scrambled_size)),
    )

"""Training sentences of the memory modules: planted and natural facts in real passages.

Natural facts are the sentences of passages that a question of passage-qa asks for: a gate that saw
planted needles only would learn their wording.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from bem.memory.encoder import SentenceStates, surface_features
from bem.memory.lexical import content_words, word_hashes
from bem.memory.sentences import Sentence, split_sentences
from bem.memory.slot_tokens import SlotTokenizer
from torch import Tensor

from bem_fleet.data.memory_tasks import TASKS, MemoryItem, haystack, memory_items, plant
from bem_fleet.data.passage_qa import load_passage_qa

NATURAL_TASK = "natural"
"""Task of questions about the passages themselves."""


@dataclass(frozen=True)
class MemoryText:
    """A text and what is asked about it.

    Attributes:
        text: Passages with planted needles.
        planted: Items whose needles are planted.
        natural: Items about the passages; their answers are pieces that fit a slot.
        absent: Items whose needles are not in the text.
    """

    text: str
    planted: tuple[MemoryItem, ...]
    natural: tuple[MemoryItem, ...]
    absent: tuple[MemoryItem, ...] = ()


@dataclass(frozen=True)
class TrainingSentences:
    """Pieces of a text with cached states, and the questions that ask for them.

    Attributes:
        states: Pooled states ``[N, F]``.
        surface: Features of the gate ``[N, 4]``, without novelty.
        asked: Whether some question asks for a piece, ``[N]``.
        questions: Pooled states of the questions ``[Q, F]``.
        rows: Piece that each question asks for, ``[Q]``.
        groups: Number of the item of each question, ``[Q]``; a question may ask for several pieces.
    """

    states: Tensor
    surface: Tensor
    asked: Tensor
    questions: Tensor
    rows: Tensor
    groups: Tensor


def memory_text(
    split: str, tokenizer: SlotTokenizer, *, characters: int, items: int, seed: int, absent: int = 0
) -> MemoryText:
    """Return a text of a split with planted items, and its natural items.

    Args:
        split: ``train`` or ``dev``: the passages. Planted items are of the training pools.
        tokenizer: Tokenizer of slots.
        characters: Length of the passages.
        items: Planted items of each task.
        seed: Seed of items, passages and places.
        absent: Items of each task that are asked for without being planted.
    """
    drawn = [memory_items(task, split="train", seed=seed, count=items + absent) for task in TASKS]
    planted = tuple(one for task in drawn for one in task[:items])
    text = plant(haystack(split, characters, seed), planted, seed)
    unplanted = tuple(one for task in drawn for one in task[items:])
    return MemoryText(text, planted, natural_items(split, tokenizer, text, seed), unplanted)


def natural_items(
    split: str, tokenizer: SlotTokenizer, text: str, seed: int
) -> tuple[MemoryItem, ...]:
    """Return the questions of passage-qa whose answering piece is in a text, in a random order.

    Args:
        split: Split of the passages.
        tokenizer: Tokenizer of slots, which cuts sentences into pieces.
        text: Text that is asked about.
        seed: Seed of the order.
    """
    items = []
    for question in load_passage_qa().splits[split]:
        pieces = (
            piece.text.strip()
            for sentence in split_sentences(question.passage)
            for piece in tokenizer.pieces(sentence)
        )
        answer = next((piece for piece in pieces if question.answer in piece), "")
        if answer and answer in text:
            items.append(MemoryItem(NATURAL_TASK, (), question.question, (_spaced(answer),)))
    random.Random(seed).shuffle(items)  # noqa: S311 - no secret
    return tuple(items)


def training_sentences(
    text: MemoryText, tokenizer: SlotTokenizer, states: SentenceStates
) -> TrainingSentences:
    """Cut a text into pieces and pool their states and those of the questions once.

    Args:
        text: Text and questions.
        tokenizer: Tokenizer of slots.
        states: Pooled states of the base model.
    """
    sentences = split_sentences(text.text)
    cut = [tokenizer.pieces(sentence) for sentence in sentences]
    pieces = [piece for found in cut for piece in found]
    surface = torch.stack(
        [surface_features(one.text, word_hashes(one.text)[1], len(one.ids)) for one in pieces]
    )
    places = _places(sentences, [len(found) for found in cut], [one.text for one in pieces])
    asked = torch.zeros(len(pieces), dtype=torch.bool)
    pairs: list[tuple[str, int, int]] = []
    for number, item in enumerate((*text.planted, *text.natural)):
        for needle in {*item.needles, *item.answers}:
            asked[places.get(needle, [])] = True
        pairs += [
            (item.question, places[answer][0], number)
            for answer in item.answers
            if answer in places and _shares_word(item.question, answer)
        ]
    ids = [_question_ids(question, tokenizer) for question, _, _ in pairs]
    return TrainingSentences(
        states.pooled([one.ids for one in pieces]),
        surface,
        asked,
        states.pooled(ids),
        torch.tensor([row for _, row, _ in pairs]),
        torch.tensor([group for _, _, group in pairs]),
    )


def _places(
    sentences: Sequence[Sentence], sizes: Sequence[int], pieces: Sequence[str]
) -> dict[str, list[int]]:
    """Return the rows of each sentence, all of its pieces, and of each piece, by their texts."""
    places: dict[str, list[int]] = {}
    for row, piece in enumerate(pieces):
        places.setdefault(_spaced(piece), [row])
    first = 0
    for sentence, size in zip(sentences, sizes, strict=True):
        places.setdefault(_spaced(sentence.text), list(range(first, first + size)))
        first += size
    return places


def _question_ids(question: str, tokenizer: SlotTokenizer) -> list[int]:
    pieces = tokenizer.pieces(Sentence(question, 0))
    return [token for piece in pieces for token in piece.ids]


def _shares_word(question: str, answer: str) -> bool:
    """Return whether the first hop can find an answer: the second hop has no key of its own."""
    return bool(set(content_words(question)[0]) & set(content_words(answer)[0]))


def _spaced(text: str) -> str:
    return " ".join(text.split())

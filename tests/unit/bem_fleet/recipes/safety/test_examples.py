"""Tests of the safety adapter's training data."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from bem.errors import DataFormatError
from bem.testing import tiny_backbone
from bem.training.activation_cache import prompt_ids
from bem.training.safety.examples import SafetyExamples, refusal_ids
from bem_fleet.data.benign_prompts import BenignText
from bem_fleet.data.guard_texts import HARMLESS as HARMLESS_LABEL
from bem_fleet.data.guard_texts import WrittenText
from bem_fleet.data.red_team import RedTeamPrompt
from bem_fleet.recipes.safety import examples
from bem_fleet.recipes.safety.examples import base_replies, keys_digest, load_examples

ATTACKS = [RedTeamPrompt(f"a{i}", f"attack {i}", "f", "harm", "train") for i in range(3)]
HARMLESS = [
    BenignText("h0", "what is 2 + 2", "asdiv"),
    BenignText("h1", "x" * 500, "asdiv"),
    BenignText("h2", "for an adapter", "disfl-qa", adapter="passage-qa"),
]
WRITTEN = [
    WrittenText("break a lock", "harm", "f/one", "t", "train"),
    WrittenText("spy on him", "privacy", "f/two", "t", "train"),
    WrittenText("sharpen a pencil", HARMLESS_LABEL, "f/three", "t", "train"),
    WrittenText("y" * 500, HARMLESS_LABEL, "f/three", "t", "train"),
    WrittenText("a reply", "abusive", "f/four", "t", "train"),
]


def load(
    monkeypatch: pytest.MonkeyPatch,
    attacks: list[RedTeamPrompt],
    cache: Path,
    written: Sequence[WrittenText] = WRITTEN,
) -> SafetyExamples:
    """Load the examples of given prompts."""
    monkeypatch.setattr(examples, "written_texts", lambda _: written)
    monkeypatch.setattr(examples, "load_red_team", lambda _: attacks)
    monkeypatch.setattr(examples, "load_benign_requests", lambda _: HARMLESS)
    return load_examples(
        tiny_backbone(), first_layer=2, feature_layer=0, attacks=2, harmless=5, cache=cache
    )


def test_attacks_refuse_and_harmless_prompts_keep_the_base_reply(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Long prompts, replies and prompts of adapters are left out; the digest covers the keys."""
    found = load(monkeypatch, ATTACKS, tmp_path)
    backbone = tiny_backbone()
    refusal = refusal_ids(backbone)

    attacks: list[RedTeamPrompt | WrittenText] = [*ATTACKS[:2], *WRITTEN[:2]]
    harmless: list[BenignText | WrittenText] = [HARMLESS[0], WRITTEN[2]]

    def lengths(category: str, texts: Sequence[str]) -> None:
        assert [len(e.labels) for e in found.attacks[category]] == [
            len(prompt_ids(backbone, text)) + len(refusal) for text in texts
        ]

    assert set(found.attacks) == {"harm", "privacy"}
    lengths("harm", [ATTACKS[0].text, ATTACKS[1].text, WRITTEN[0].text])
    lengths("privacy", [WRITTEN[1].text])
    assert len(found.harmless) == 2
    assert found.digest == keys_digest(attacks, harmless)
    assert found.digest != keys_digest(attacks, harmless[:1])


def test_split_without_attacks_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Training without attacks would learn nothing."""
    with pytest.raises(DataFormatError, match="no attack"):
        load(monkeypatch, [], tmp_path, written=WRITTEN[2:])


def test_base_replies_are_generated_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The second call reads the journal and needs no engine."""
    prompts = [("k1", "hello"), ("k2", "bye")]
    first = base_replies(tiny_backbone(), prompts, tokens=3, cache=tmp_path)
    monkeypatch.delattr(examples, "LLMEngine")

    assert base_replies(tiny_backbone(), prompts[::-1], tokens=3, cache=tmp_path) == first[::-1]

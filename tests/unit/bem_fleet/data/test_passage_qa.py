"""The data of adapter passage-qa, which committed figures depend on."""

import hashlib
import json
from pathlib import Path

from bem_fleet.data.held_out import inspection
from bem_fleet.data.passage_qa import (
    all_questions,
    few_shot_examples,
    load_passage_qa,
)
from bem_fleet.data.prompt_wording import INSTRUCTION

from tests.support.text_digests import shared_texts

ROOT = Path(__file__).resolve().parents[4]
# SHA-256 over [key, passage, question, answer] of a split's items in order, as of the commit
# that trained the adapter.
RECORDED = {
    0: {
        "train": "35e0c15d3c8b98d752e7be13743650a9d8631be6876dfa57f97619abe0b33d5c",
        "dev": "d50bd37569951ec8e6886b813f197b8e8b0c8a059abb35b7b1581af9c792585e",
        "held_out": "ec032ffd6b0ea235a30ed5abb731fd62e9e52536fa591d528932f6aaab9301c7",
    },
    1: {
        "train": "b950f1a909b779a9cbd2f693acbf72e67edcb9f5f34727dd3d35f48e9c8f03b3",
        "dev": "84437252f81a0aff672d39abe56d7a5a041250b192688d59978ab196e7dba3d2",
        "held_out": "24a4754737a305333a7551f9af6ceb133b2e957e795c3573dfaee2c8beb82af4",
    },
}


def test_splits_are_bit_for_bit_those_of_the_committed_adapter() -> None:
    """Texts, keys and order are what they were; card and report of the adapter agree with them."""
    card = json.loads((ROOT / "adapters/passage-qa/card.json").read_text())
    report = json.loads((ROOT / "results/passage_qa.json").read_text())
    for seed, wanted in RECORDED.items():
        data = load_passage_qa(seed)
        found = {
            split: hashlib.sha256(
                json.dumps([[i.key, i.passage, i.question, i.answer] for i in items]).encode()
            ).hexdigest()
            for split, items in all_questions(seed).items()
        }

        assert found == wanted
        assert data.digest == card["data_digest"]
    assert [item.key for item in all_questions()["held_out"]] == report["items"]
    with inspection():
        kept = [item.key for item in load_passage_qa(0).splits["held_out"]]
    assert [key for key in report["items"] if key in kept] == kept
    assert load_passage_qa(0).splits["train"] == all_questions()["train"]


def test_no_passage_is_in_two_splits() -> None:
    """Splits are by passage, answers lie in their passages, and a seed moves passages."""
    with inspection():
        splits = dict(load_passage_qa(0).splits)
    passages = {name: {item.passage for item in items} for name, items in splits.items()}

    held, dev = (shared_texts(passages["train"], passages[name]) for name in ("held_out", "dev"))

    assert not held
    assert not dev
    assert len([item.key for item in splits["held_out"]]) > 100
    assert all(
        item.answer.lower() in item.passage.lower() for items in splits.values() for item in items
    )
    assert load_passage_qa(1).splits["train"] != splits["train"]


def test_prompt_and_reply_are_what_the_adapter_learned() -> None:
    """The prompt is instruction, passage and question; the reply is strict JSON."""
    data = load_passage_qa(0)
    item = data.splits["dev"][0]

    assert item.prompt() == (
        f"{INSTRUCTION}\n\nPassage: {item.passage}\n\nQuestion: {item.question}"
    )
    assert json.loads(item.reply()) == {"answer": item.answer}
    assert {shot.key for shot in few_shot_examples(data)} <= {i.key for i in data.splits["train"]}

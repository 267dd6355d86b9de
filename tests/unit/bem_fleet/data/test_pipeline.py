"""From package files to batches."""

import itertools
from pathlib import Path

import pytest
from bem_fleet.data.datasets import get_dataset
from bem_fleet.data.near_duplicates import items_with_keys, merge_keys, text_keys
from bem_fleet.data.passage_qa import CLEANING, all_questions, load_passage_qa
from bem_fleet.data.pipeline import (
    BatchPlan,
    FormatPlan,
    PipelinePlan,
    format_prompt,
    run_dataset,
    run_pipeline,
    source_digest,
)
from bem_fleet.data.prompt_wording import INSTRUCTION, content_parts
from bem_fleet.data.records import make_record, parse_record


def test_a_set_goes_through_all_stages_once(tmp_path: Path) -> None:
    """Every formatted row is in one batch of its own split; a second run does nothing."""
    spec = get_dataset("harmbench")
    made = run_dataset(spec, tmp_path)
    again = run_dataset(spec, tmp_path)
    formatted = list(made["format"].load())
    batches = list(made["batch"].load())

    assert list(made) == ["raw", "clean", "format", "batch"]
    assert sorted(row["key"] for row in formatted) == sorted(
        row["key"] for batch in batches for row in batch["rows"]
    )
    assert all(row["split"] == batch["split"] for batch in batches for row in batch["rows"])
    assert max(len(batch["rows"]) for batch in batches) == 8
    assert {n: a.sha256 for n, a in again.items()} == {n: a.sha256 for n, a in made.items()}
    assert all(artifact.resumed == artifact.read for artifact in again.values())


def test_stages_agree_with_the_loader_of_passage_qa(tmp_path: Path) -> None:
    """The pipeline with the adapter's own plan gives the adapter's items, prompts and splits.

    Only passages that share a run of words with another passage may be in another split: the
    pipeline moves them together, the adapter's older split displaces them.
    """
    plan = PipelinePlan(CLEANING, FormatPlan(INSTRUCTION))
    spec = get_dataset("disfl-qa")
    rows = list(run_dataset(spec, tmp_path, plan)["format"].load())
    data = load_passage_qa()
    wanted = {
        item.key: (split, item.prompt(), item.answer)
        for split, items in all_questions().items()
        for item in items
    }
    found = {
        row["key"]: (row["split"], row["messages"][0]["content"], row["golds"][0]) for row in rows
    }

    assert source_digest(spec) == data.digest
    assert {key: one[1:] for key, one in wanted.items()} == {k: one[1:] for k, one in found.items()}
    assert len([key for key in wanted if wanted[key][0] != found[key][0]]) < 8


@pytest.mark.parametrize("name", ["bbq", "jailbreaks"])
def test_near_duplicates_are_in_one_split(name: str, tmp_path: Path) -> None:
    """Sets of templates leak most: no text of a split has eight words in a row of another one."""
    rows = list(run_dataset(get_dataset(name), tmp_path)["format"].load())
    keys = {
        split: [
            text_keys(*content_parts(row["messages"][0]["content"]))
            for row in rows
            if row["split"] == split
        ]
        for split in {row["split"] for row in rows}
    }
    merged = {split: merge_keys(own) for split, own in keys.items()}

    assert len(keys) > 1
    for split, other in itertools.permutations(keys, 2):
        assert not items_with_keys(keys[split], merged[other]).any()
    assert all(row["cluster"] for row in rows)


def test_batches_hold_like_lengths(tmp_path: Path) -> None:
    """Within a window, rows are batched by length, so that little is padded."""
    records = [make_record("x" * (1 + n * 7 % 64), labels={"split": "dev"}) for n in range(64)]
    plan = PipelinePlan(batching=BatchPlan(size=8, window=64))
    batches = list(run_pipeline(records, "s", plan, tmp_path)["batch"].load())
    spans = [[len(row["messages"][0]["content"]) for row in batch["rows"]] for batch in batches]

    assert all(max(span) - min(span) == 7 for span in spans)


def test_prompt_holds_what_there_is() -> None:
    """A bare text stays bare."""
    assert format_prompt("", "", "q") == "q"
    assert format_prompt("", "p", "q") == "Passage: p\n\nQuestion: q"
    assert format_prompt("i", "", "q") == "i\n\nQuestion: q"


def test_records_survive_the_disk() -> None:
    """A record is read back as it was written."""
    record = make_record("q", "p", ("a", "b"), category="c", labels={"s": 0.5})

    assert parse_record(record.row()) == record

"""Tests of the evaluation items of passage questions."""

from bem_fleet.data.passage_qa import PassageQADataset, PassageQuestion
from bem_fleet.evaluation.passage_items import held_out_items


def test_questions_about_one_passage_are_one_cluster() -> None:
    """Only held-out questions become items, in their order, and the limit cuts the last ones."""
    questions = [
        PassageQuestion("1", "The tower has two bells.", "How many bells has it?", "two"),
        PassageQuestion("2", "The tower has two bells.", "What has bells?", "tower"),
        PassageQuestion("3", "Ice melts.", "What melts?", "Ice"),
    ]
    data = PassageQADataset({"train": questions[2:], "held_out": questions}, "digest")
    items = held_out_items(data, None)

    assert [item.golds for item in items] == [("two",), ("tower",), ("Ice",)]
    assert items[0].cluster == items[1].cluster != items[2].cluster
    assert [item.category for item in items] == ["how", "what", "what"]
    assert all(one.question in item.prompt for one, item in zip(questions, items, strict=True))
    assert held_out_items(data, 2) == items[:2]

"""Methods without training on the tiny model."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from bem.testing import tiny_backbone
from bem_fleet.guard.scoring.embedding import MiniLM
from bem_fleet.studies.online.correction_stream import Correction
from bem_fleet.studies.online.correction_systems import (
    BaseModel,
    InContextCorrection,
    KeywordRule,
    StudyEngine,
)

from tests.support.online_bank import online_card

KNOWN = Correction("f", "u", "Please note the table for Ines on Friday.", "table=Ines;day=Friday")


class CountingEngine(StudyEngine):
    """Keeps the prompts that reach the model."""

    def __init__(self, folder: Path) -> None:
        super().__init__(tiny_backbone(), online_card(), folder)
        self.asked: list[str] = []

    def texts(self, prompts, adapters=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        """Count, and answer."""
        self.asked += prompts
        return super().texts(prompts, adapters)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[CountingEngine]:
    """Return a started engine."""
    made = CountingEngine(tmp_path)
    made.start()
    yield made
    made.close()


def test_keyword_rule_puts_new_words_into_the_nearest_reply(engine: CountingEngine) -> None:
    """The rule needs half of the words; other requests are the base model's."""
    rule = KeywordRule(engine)
    rule.learn([KNOWN])
    other = "How do whales sleep?"
    found = rule.answers([other, "Please note the table for Omar on Monday."])

    assert found == [BaseModel(engine).answers([other])[0], "table=Omar;day=Monday"]
    assert engine.asked == [other] * 2


def test_corrections_are_shown_to_near_requests_only(engine: CountingEngine) -> None:
    """The nearest correction stands last; a request of another kind reaches the model as it is."""
    system = InContextCorrection(engine, MiniLM().embed, floor=0.4)
    near, other = "Please note the table for Omar on Monday.", "How do whales sleep?"
    system.answers([near])
    system.learn([KNOWN, Correction("f", "u", "Note the table for Kim today.", "table=Kim")])
    system.answers([near, other])
    before, shown, unchanged = engine.asked

    assert (before, unchanged) == (near, other)
    assert shown.endswith(f"{KNOWN.prompt}\nReply: {KNOWN.reply}\n\nRequest: {near}\nReply:")
    assert shown.count("Reply: table=") == 2

"""Effects of records, without Redis."""

import json

import pytest
from bem_fleet.feedback.processor import effect_of, family_by_prompt
from bem_fleet.feedback.record import FeedbackRecord

from tests.support.feedback import record


def test_content_is_what_a_learner_may_read() -> None:
    """Texts and kind are kept; the user, the request and the flags are not part of the content."""
    one = record(1, edit="b", rating="down", tags=("t",), request_id="r")
    content = json.loads(effect_of("1-0", one, family_by_prompt(one)).content)

    assert content["kind"] == "edit"
    assert (content["correction"], content["edit"], content["tags"]) == ("answer 1", "b", ["t"])
    assert not {"user", "request_id", "consent"} & content.keys()


def test_without_consent_nothing_is_kept() -> None:
    """Such a record only counts."""
    effect = effect_of("1-0", FeedbackRecord("c", rating="up"), "")

    assert (effect.family, effect.content, effect.digest) == ("", "", "")


def test_family_is_that_of_the_prompt() -> None:
    """Case and spaces make no family; without a prompt each answer is one."""
    first, same, other = (
        record(1, prompt=text) for text in ("What  is it?", "what is IT?", "Why?")
    )

    assert family_by_prompt(first) == family_by_prompt(same) != family_by_prompt(other)
    assert family_by_prompt(record(1, prompt="")) != family_by_prompt(record(2, prompt=""))


@pytest.mark.parametrize("name", ["", "A", "a b", "a:b", "x" * 65, "-a"])
def test_malformed_family_is_refused(name: str) -> None:
    """A family's name is part of a key in Redis."""
    with pytest.raises(ValueError, match="family"):
        effect_of("1-0", record(1), name)


def test_sample_depends_on_the_entry_only() -> None:
    """The rank in a full family is the same whenever and wherever it is computed."""
    ranks = {
        effect_of(f"{n}-0", record(1), family_by_prompt(record(1))).priority for n in range(200)
    }

    assert effect_of("7-0", record(1), family_by_prompt(record(1))).priority in ranks
    assert len(ranks) == 200
    assert max(ranks) < 2**48

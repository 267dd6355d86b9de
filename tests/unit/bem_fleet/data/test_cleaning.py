"""Quality control, duplicates, personal data."""

import pytest
from bem_fleet.data.cleaning import CleaningPlan, clean_record, scrub_identifiers
from bem_fleet.data.records import make_record
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("write to jo.doe+x@mail.example.org now", "write to <EMAIL> now"),
        ("call (555) 010-4477 or +1 555-010-4477", "call <PHONE> or <PHONE>"),
        ("host 192.168.1.254 is up", "host <IP> is up"),
        ("card 4111 1111 1111 1111.", "card <CARD>."),
        ("ssn 078-05-1120", "ssn <SSN>"),
        ("pay to DE89 3704 0044 0532 0130 00", "pay to <IBAN>"),
    ],
)
def test_personal_data_is_replaced_by_its_kind(text: str, wanted: str) -> None:
    """What it was stays readable, what it said is gone."""
    assert scrub_identifiers(text) == wanted


@pytest.mark.parametrize(
    "text",
    ["In 1066, 1,234,567 people", "version 1.2.3", "4111 1111 1111 1112", "1939-1945", "a@b"],
)
def test_other_numbers_stay(text: str) -> None:
    """Years, counts, versions and numbers that fail the card check are no personal data."""
    assert scrub_identifiers(text) == text


@given(st.text(alphabet="a1 .@-+(){}<>5", max_size=40))
@settings(max_examples=60)
def test_scrubbing_twice_changes_nothing(text: str) -> None:
    """The replacements hold nothing personal."""
    assert scrub_identifiers(scrub_identifiers(text)) == scrub_identifiers(text)


def test_duplicates_are_found_by_their_words() -> None:
    """Case, blanks and punctuation do not make a new record, unless the plan asks for keys."""
    first, second = make_record("Who is it?", "A b."), make_record("who is IT", "a  B")
    near, exact = CleaningPlan(), CleaningPlan(near_duplicates=False)
    seen: set[str] = set()

    assert clean_record(first, near, seen).record == first
    assert clean_record(second, near, seen).reason == "duplicate"
    seen.clear()
    assert clean_record(first, exact, seen).record
    assert clean_record(second, exact, seen).record
    assert clean_record(first, exact, seen).reason == "duplicate"


def test_quality_names_what_is_wrong() -> None:
    """Every check has its reason."""
    plan = CleaningPlan(("readable", "answered", "extractable"))
    cases = {
        "empty": make_record(" "),
        "too long": make_record("q", "p" * 20_001),
        "broken encoding": make_record("q\ufffd"),
        "no answer": make_record("q", "p"),
        "answer not in passage": make_record("q", "p", ("x",)),
        "": make_record("q", "p X", ("x",)),
    }
    for reason, record in cases.items():
        assert clean_record(record, plan, set()).reason == reason


def test_scrubbed_record_says_so_and_gets_a_new_key() -> None:
    """Its key is of the text that is kept."""
    kept = clean_record(
        make_record("mail a@b.org?", "p", ("a@b.org",)), CleaningPlan(), set()
    ).record

    assert kept
    assert kept.answers == ("<EMAIL>",)
    assert kept.labels == {"scrubbed": 1.0}
    assert kept.key == make_record("mail <EMAIL>?", "p").key


def test_names_go_only_where_the_plan_asks() -> None:
    """A name is replaced in question, passage and answer alike; the label says so."""
    record = make_record("Who is John Miller?", "John Miller lives in Paris.", ("John Miller",))
    kept = clean_record(record, CleaningPlan(), set()).record
    scrubbed = clean_record(record, CleaningPlan(names=True), set()).record

    assert kept == record
    assert scrubbed
    assert (scrubbed.question, scrubbed.passage) == ("Who is <NAME>?", "<NAME> lives in Paris.")
    assert scrubbed.answers == ("<NAME>",)
    assert scrubbed.labels == {"scrubbed": 1.0}

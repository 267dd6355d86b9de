"""The tagger finds names whole, keeps places, and scrubbing twice changes nothing."""

from bem_fleet.data.person_names import person_name_spans, scrub_names


def test_spans_cover_names_and_no_places() -> None:
    """Both names are found at their places; a city and a company are no people."""
    text = "Emily Carter wrote to Robert Hughes at Microsoft in Chicago."

    assert [text[a:b] for a, b in person_name_spans(text)] == ["Emily Carter", "Robert Hughes"]


def test_scrubbed_text_has_no_name_left() -> None:
    """What was replaced is not found again."""
    once = scrub_names("I spoke with Sarah Bennett yesterday.")

    assert once == "I spoke with <NAME> yesterday."
    assert scrub_names(once) == once
    assert scrub_names("Nothing here.") == "Nothing here."

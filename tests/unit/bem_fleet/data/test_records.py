"""Records of datasets."""

import pytest
from bem.errors import DataFormatError
from bem_fleet.data.records import make_record, parse_record


def test_record_survives_the_round_trip_through_json() -> None:
    """Parsing a row gives the same record; the key depends on passage and question only."""
    record = make_record("Who?", "Ada came.", ("Ada",), category="who", labels={"unit": "m"})

    assert parse_record(record.row()) == record
    assert make_record("Who?", "Ada came.").key == record.key
    assert make_record("Who?", "Bob came.").key != record.key


@pytest.mark.parametrize("row", [{"key": "k"}, {"key": "k", "answers": [], "colour": "red"}])
def test_row_with_missing_or_unknown_fields_is_refused(row: dict[str, object]) -> None:
    """A row that is not a record is an error that shows the row."""
    with pytest.raises(DataFormatError, match="not a record"):
        parse_record(row)

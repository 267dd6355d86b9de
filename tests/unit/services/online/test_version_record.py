"""Records of versions."""

import pytest
from bem.errors import DataFormatError
from bem_fleet.services.online.version_record import VersionState, parse_version

from tests.unit.services.online.hosts import FAMILY, OTHER, record


def test_record_is_read_back_with_its_history() -> None:
    """JSON and back gives the same record; a decision changes state and history only."""
    lineage = {FAMILY: (("1-0", "2-0"), ("3-0",)), OTHER: (("4-0",),)}
    made = record(lineage=lineage, users={FAMILY: 2}, number=3)
    decided = made.decided("promote", "ann", "it is right", VersionState.LIVE)

    assert parse_version(decided.to_json()) == decided
    assert decided.events() == {"1-0", "2-0", "3-0", "4-0"}
    assert decided.events(OTHER) == {"4-0"}
    assert (made.history, decided.history[0].by) == ((), "ann")


@pytest.mark.parametrize("text", ["{", "[]", '{"number": 1}', '{"state": "x", "lineage": {}}'])
def test_malformed_record_is_refused(text: str) -> None:
    """Whatever is stored in its place is named as malformed."""
    with pytest.raises(DataFormatError, match="version: the record is malformed"):
        parse_version(text)

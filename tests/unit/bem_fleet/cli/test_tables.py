"""Plain-text tables."""

from bem_fleet.cli.tables import format_table


def test_columns_are_aligned_without_trailing_blanks() -> None:
    """Each column is as wide as its widest cell."""
    assert format_table([("a", "bb"), ("ccc", "d")]) == "a    bb\nccc  d"

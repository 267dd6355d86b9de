"""Root of the checkout."""

from bem_fleet.checkout import ROOT


def test_root_has_the_folders_that_commands_read() -> None:
    """Results, adapters, charts and services lie below the root."""
    assert all((ROOT / name).is_dir() for name in ("results", "adapters", "charts", "services"))

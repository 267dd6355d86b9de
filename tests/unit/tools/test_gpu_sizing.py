"""Table of GPU memory: the documentation has the computed one."""

from tests.support.source_tree import ROOT
from tools.gpu_sizing import sizing_table


def test_the_documentation_has_the_computed_table() -> None:
    """After a change, paste what ``python -m tools.gpu_sizing`` prints."""
    table = sizing_table()
    assert table.count("\n") >= 6
    assert table in (ROOT / "docs/operations.md").read_text()

"""Comparison of generated code."""

from pathlib import Path

from tools.gen_protos import differences


def test_changed_and_missing_files_are_named(tmp_path: Path) -> None:
    """Both sides are walked; caches are not compared."""
    left, right = tmp_path / "left", tmp_path / "right"
    for side, text in ((left, "a"), (right, "b")):
        (side / "__pycache__").mkdir(parents=True)
        (side / "__pycache__" / "x.pyc").write_text(text)
        (side / "same.py").write_text("")
        (side / "changed.py").write_text(text)
    (left / "only.pyi").write_text("")

    assert sorted(differences(left, right)) == ["changed.py", "only.pyi"]

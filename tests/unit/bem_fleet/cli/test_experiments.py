"""Recipes and studies by name."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer
from bem_fleet.cli.experiments import EVALUATIONS, RECIPES, STUDIES, run_experiment


def test_every_module_exists() -> None:
    """Each name leads to a module that can be run."""
    for module, *_ in (*RECIPES.values(), *EVALUATIONS.values(), *STUDIES.values()):
        found = find_spec(module)
        assert found is not None, module
        is_package = found.submodule_search_locations is not None
        assert not is_package or find_spec(f"{module}.__main__"), module


def test_unknown_name_lists_the_known_ones() -> None:
    """The error names the field and the choices."""
    with pytest.raises(
        typer.BadParameter, match="choose one of cache-policy, compatibility, guard, memory"
    ):
        run_experiment(STUDIES, "x", [])


def test_options_and_exit_code_are_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module gets the leading arguments and the options, and its exit code comes back."""
    (tmp_path / "recipe.py").write_text("import sys\nsys.exit(len(sys.argv))\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")

    assert sys.executable
    assert run_experiment({"r": ("recipe", "train")}, "r", ["--seed", "1"]) == 4

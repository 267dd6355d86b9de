"""The rules of the house, asserted by walking the tree."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVICES = sorted(p.name for p in (ROOT / "services").iterdir() if (p / "__main__.py").exists())
# The orchestrator answers for the whole fleet: bemfleet.fleet.v1.
PACKAGES = {"orchestrator": "fleet"}
FORBIDDEN_MODULES = {"utils", "helpers", "manager", "misc", "common"}


def tracked(*suffixes: str) -> list[Path]:
    """Return the files of the repository that people wrote, tracked or about to be."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    generated = ("libs/bemfleet/", "libs/inference/")
    paths = [ROOT / name for name in listed if not name.startswith(generated)]
    return [path for path in paths if path.suffix in suffixes and path.is_file()]


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield the functions of a module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("service", SERVICES)
def test_service_has_its_rooms(service: str) -> None:
    """Each service has a README, settings with its prefix, a short start, and tests or a proto."""
    folder = ROOT / "services" / service
    main = (folder / "__main__.py").read_text().splitlines()

    assert (folder / "README.md").is_file()
    assert f'env_prefix="BEM_{service.upper()}_"' in (folder / "settings.py").read_text()
    assert len(main) <= 26
    assert (folder / "servicer.py").exists() or (folder / "app.py").exists()
    if (folder / "servicer.py").exists():
        package = PACKAGES.get(service, service)
        assert (ROOT / f"protos/bemfleet/{package}/v1/{package}.proto").is_file()


def test_files_and_functions_are_small() -> None:
    """No hand-written module has over 400 lines, no function over 60, the body of most far less."""
    for path in tracked(".py"):
        assert len(path.read_text().splitlines()) <= 400, path
        if "tests" in path.parts:
            continue
        for function in functions(path):
            lines = (function.end_lineno or 0) - function.lineno + 1
            doc = ast.get_docstring(function) or ""
            assert lines - len(doc.splitlines()) <= 60, f"{path}:{function.lineno}"


def test_modules_are_named_for_what_they_hold() -> None:
    """There is no room called utils."""
    assert not [p for p in tracked(".py") if p.stem in FORBIDDEN_MODULES]


def test_metrics_are_named_for_their_service() -> None:
    """Every metric begins with bem_ and the name of its service or library."""
    pattern = re.compile(r"(?:Counter|Gauge|Histogram)\(\s*\"([a-z0-9_]+)\"")
    for path in tracked(".py"):
        if "tests" in path.parts:
            continue
        for name in pattern.findall(path.read_text()):
            parts = path.relative_to(ROOT).parts
            owner = parts[1] if parts[0] == "services" else path.parent.name
            assert name.startswith(f"bem_{owner}_"), f"{path}: {name}"


def test_nothing_names_a_machine_or_a_registry() -> None:
    """No absolute machine paths, no download addresses in locks."""
    machine = re.compile(r"(?<![\w.])/(?:work|farm|root|home)/")
    for path in tracked(".py", ".md", ".sh", ".toml", ".yaml", ".yml", ".json"):
        assert not machine.search(path.read_text()), path
    for path in tracked(".lock"):
        assert "://" not in path.read_text(), path


def test_no_error_is_swallowed() -> None:
    """No handler of every exception does nothing."""
    for path in tracked(".py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler) and isinstance(node.type, ast.Name):
                silent = all(isinstance(statement, ast.Pass) for statement in node.body)
                assert not (node.type.id == "Exception" and silent), f"{path}:{node.lineno}"


def test_ports_in_the_readme_are_the_defaults() -> None:
    """What the README says is where the fleet listens."""
    readme = (ROOT / "README.md").read_text()
    plan = (ROOT / "libs/bem_fleet/cli/local/plan.py").read_text()
    for port in re.findall(r"_port\(\"[A-Z_]+\", (\d+)\)", plan):
        assert port in readme, port

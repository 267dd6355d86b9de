"""House rules of the tree: layout of services, sizes, tests by name, errors, metrics, machines."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

from tests.support import source_tree
from tests.support.slow import slow_names
from tests.support.source_tree import ROOT, assert_none, at_least, files, functions, relative

SERVICES = sorted(
    folder.name
    for folder in (ROOT / "services").iterdir()
    if folder.is_dir() and any(folder.glob("*.py"))
)
# The orchestrator serves the API of the whole fleet: bemfleet.fleet.v1.
PACKAGES = {"orchestrator": "fleet"}
FILE_LINES, FUNCTION_LINES, TEST_FUNCTION_LINES = 400, 40, 60
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|farm|root|home)/")
METRIC = re.compile(r"(?:Counter|Gauge|Histogram|MetricFamily)\(\s*\"([a-z0-9_]+)\"")


def is_test(path: Path) -> bool:
    """Return whether a file is among the tests."""
    return relative(path).startswith("tests/")


def test_services_are_found() -> None:
    """The rules of services have services to check."""
    at_least(5, SERVICES)


@pytest.mark.parametrize("service", SERVICES)
def test_service_folder_is_complete(service: str) -> None:
    """A service has a descriptor, a README, settings, a short start, unit tests and a proto."""
    folder = ROOT / "services" / service
    main = (folder / "__main__.py").read_text().splitlines()
    tests = list((ROOT / "tests" / "unit" / "services" / service).rglob("test_*.py"))

    assert (folder / "service.yaml").is_file()
    assert (folder / "README.md").is_file()
    assert f'env_prefix="BEM_{service.upper()}_"' in (folder / "settings.py").read_text()
    assert len(main) <= 26
    assert tests, f"tests/unit/services/{service} has no tests"
    assert (folder / "servicer.py").exists() or (folder / "app.py").exists()
    if (folder / "servicer.py").exists():
        package = PACKAGES.get(service, service)
        assert (ROOT / f"protos/bemfleet/{package}/v1/{package}.proto").is_file()


def test_files_are_short() -> None:
    """No hand-written module has more than 400 lines."""
    lines = {relative(path): len(path.read_text().splitlines()) for path in files(".py", least=300)}

    assert_none(f"{name}: {count}" for name, count in lines.items() if count > FILE_LINES)


def test_functions_are_short() -> None:
    """No function has more than 40 lines without its docstring, in tests 60."""
    lengths = {
        f"{relative(path)}::{function.name}": source_tree.length(function)
        for path in files(".py", least=300)
        for function in functions(path)
    }
    at_least(3000, lengths)
    limits = {
        name: TEST_FUNCTION_LINES if name.startswith("tests/") else FUNCTION_LINES
        for name in lengths
    }

    assert_none(f"{name}: {count}" for name, count in lengths.items() if count > limits[name])


def test_every_module_has_a_test() -> None:
    """A source module has a unit test by its name, or tests/covered_by.yaml names its suite."""
    at_least(200, source_tree.modules())

    assert_none(source_tree.uncovered())


def test_list_of_covering_suites_is_current() -> None:
    """tests/covered_by.yaml names modules that are untested by name, and suites that exist."""
    assert_none(source_tree.stale_entries())


def test_list_of_slow_tests_is_current() -> None:
    """Each name of tests/slow.yaml is that of a test."""
    tests = (path.read_text() for path in files(".py") if is_test(path))
    known = {name for text in tests for name in re.findall(r"\b(?:test_|Test)\w+", text)}
    at_least(10, slow_names())

    assert_none(sorted(slow_names() - known))


def test_metrics_are_named_for_their_service() -> None:
    """Every metric begins with bem_ and the name of its service or library."""
    metrics = [
        (path, name)
        for path in files(".py")
        if not is_test(path)
        for name in METRIC.findall(path.read_text())
    ]
    for path, name in at_least(30, metrics):
        parts = path.relative_to(ROOT).parts
        owner = parts[1] if parts[0] == "services" else path.parent.name
        assert name.startswith(f"bem_{owner}_"), f"{relative(path)}: {name}"


def test_nothing_names_a_machine_or_a_registry() -> None:
    """Sources hold no absolute path of a machine, locks no download address."""
    for path in files(".py", ".md", ".sh", ".toml", ".yaml", ".yml", ".json", ".mk", least=500):
        assert not MACHINE_PATH.search(path.read_text()), relative(path)
    for path in files(".lock", least=10):
        assert "://" not in path.read_text(), relative(path)


def test_no_error_is_swallowed() -> None:
    """No handler of every exception does nothing."""
    handlers = [
        (path, node) for path in files(".py") for node in source_tree.nodes(path, ast.ExceptHandler)
    ]
    for path, node in at_least(80, handlers):
        silent = all(isinstance(statement, ast.Pass) for statement in node.body)
        broad = node.type is None or (
            isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"}
        )
        assert not (broad and silent), f"{relative(path)}:{node.lineno}"


def test_no_warning_class_is_ignored_wholesale() -> None:
    """A filter that ignores a warning names the module or the message that causes it."""
    text = (ROOT / "pyproject.toml").read_text()
    ignored = re.findall(r'"ignore:([^"]*)"', text.partition("[tool.pytest.ini_options]")[2])
    for rule in at_least(1, ignored):
        message, _, rest = rule.partition(":")
        module = rest.partition(":")[2]
        assert message or module, f"ignore:{rule}"


def test_class_name_means_one_thing_in_its_package() -> None:
    """Two classes of one package family have different names."""
    homes = defaultdict(set)
    for path in files(".py", least=300):
        if (family := _family(path)) is not None:
            for node in source_tree.tree(path).body:
                if isinstance(node, ast.ClassDef):
                    homes[family, node.name].add(relative(path))
    at_least(250, homes)

    assert_none(f"{name}: {sorted(paths)}" for name, paths in homes.items() if len(paths) > 1)


def _family(path: Path) -> tuple[str, ...] | None:
    """Return the package family: bem, fleet, bem_fleet.<package> or services.<name>."""
    parts = path.relative_to(ROOT).parts
    if parts[:2] == ("libs", "bem_fleet"):
        return parts[:3]
    return parts[:2] if parts[0] in {"libs", "services"} else None

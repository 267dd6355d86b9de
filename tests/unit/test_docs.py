"""Documentation: links, commands, the example resource, figures and the glossary's symbols."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
import yaml
from bem_fleet.cli.fleetctl import app
from bem_fleet.cli.local.plan import Plan
from typer.core import TyperGroup

from tests.support.source_tree import ROOT, assert_none, at_least, files, relative, tree

README = ROOT / "README.md"
LINK = re.compile(r"!?\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
TARGET = re.compile(r"(?m)^([a-z0-9-]+(?: [a-z0-9-]+)*):(?!=)")
MAKE = re.compile(r"(?m)(?:^|`)(?:[A-Z_]+=\S+ )*make ([^`#\n]+)(?=`|#|$)")
FLEETCTL = re.compile(r"(?m)(?:^|[` /])fleetctl ([a-z][a-z-]*)(?: ([a-z][a-z|-]*))?(?![\w:])")
MINUS, NONE = "\N{MINUS SIGN}", "\N{EN DASH}"
SOURCE_ROOTS = {"bem": "libs", "bem_fleet": "libs", "fleet": "libs"}


def pages() -> list[Path]:
    """Return the pages of the documentation that people write."""
    return at_least(30, (page for page in files(".md") if "results" not in page.parts))


def paragraphs(text: str) -> list[str]:
    """Return the paragraphs and list items of a page, without code, tables and headings."""
    prose = re.sub(r"(?ms)^```.*?^```", "", text)
    blocks = re.split(r"\n\s*\n|\n(?=- )", prose)
    return [block.strip() for block in blocks if block.strip() and block.strip()[0] not in "|#<!"]


def words(paragraph: str) -> int:
    """Return the number of words that a reader sees."""
    return len(re.sub(r"\]\([^)]*\)", "]", paragraph).split())


def table(text: str, heading: str) -> list[list[str]]:
    """Return the rows of the first table under a heading, without its head."""
    section = text.partition(f"## {heading}\n")[2]
    rows = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_readme_has_short_paragraphs() -> None:
    """No paragraph of the README has more than 60 words."""
    counted = {paragraph: words(paragraph) for paragraph in paragraphs(README.read_text())}
    at_least(10, counted)

    assert_none(f"{count} words: {text[:60]}" for text, count in counted.items() if count > 60)


def test_readme_shows_few_results_with_intervals() -> None:
    """The results table has at most 8 rows; each has a figure, an interval and a source."""
    rows = at_least(5, table(README.read_text(), "Results"))

    assert len(rows) <= 8
    for row in rows:
        assert all(row)
        assert "results/" in row[3]


def test_links_lead_somewhere() -> None:
    """Each relative link of a page is a file or folder of the repository."""
    links = [
        (page, target)
        for page in pages()
        for target in LINK.findall(re.sub(r"(?ms)^```.*?^```", "", page.read_text()))
        if "://" not in target
    ]
    at_least(60, links)

    assert_none(
        f"{relative(page)}: {target}"
        for page, target in links
        if not (page.parent / target).exists()
    )


def targets() -> set[str]:
    """Return the targets of the Makefile and of what it includes."""
    sources = [ROOT / "Makefile", *(ROOT / "make").glob("*.mk")]
    return {
        name
        for source in sources
        for names in TARGET.findall(source.read_text())
        for name in names.split()
    }


def test_make_commands_exist() -> None:
    """Each `make …` of a page names targets that exist."""
    known = targets()
    commands = [
        (page, word)
        for page in pages()
        for command in MAKE.findall(page.read_text())
        for word in command.split()
        if re.fullmatch(r"[a-z0-9-]+", word)
    ]
    at_least(40, commands)

    assert_none(f"{relative(page)}: make {word}" for page, word in commands if word not in known)


def known_commands() -> set[tuple[str, ...]]:
    """Return the words of each command of ``fleetctl``, groups included."""
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    found: set[tuple[str, ...]] = set()
    for name, command in root.commands.items():
        found.add((name,))
        if isinstance(command, TyperGroup):
            found.update((name, inner) for inner in command.commands)
    return found


def test_commands_of_fleetctl_exist() -> None:
    """Each `fleetctl …` of a page, the runbooks of alerts included, is a command."""
    known = known_commands()
    groups = {words[0] for words in known if len(words) == 2}
    shown = [
        (page, (first, inner) if inner and first in groups else (first,))
        for page in pages()
        for first, second in FLEETCTL.findall(page.read_text())
        for inner in second.split("|")
    ]
    at_least(60, shown)

    assert_none(f"{relative(page)}: fleetctl {' '.join(c)}" for page, c in shown if c not in known)


def test_example_mission_is_valid() -> None:
    """The Mission in the README is valid under the CRD's schema."""
    shown = re.findall(r"(?ms)^```yaml\n(.*?)^```", README.read_text())
    missions = [found for text in shown for found in yaml.safe_load_all(text)]
    crd = yaml.safe_load((ROOT / "charts/crds/missions.yaml").read_text())
    schema = _closed(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    for mission in at_least(1, missions):
        jsonschema.validate(mission, {**schema, "additionalProperties": False})
        canary = mission["spec"]["canary"]
        assert ("image" in canary) != ("model" in canary)
        weights = [step["weight"] for step in canary["steps"]]
        assert weights == sorted(weights)


def _closed(schema: Any) -> Any:
    """Return a schema that refuses unknown fields, as the API server's strict validation does."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(part) for key, part in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed


def _gate(name: str) -> dict[str, Any]:
    gates = json.loads((ROOT / "results/gates.json").read_text())
    return next(gate for gate in gates if gate["id"] == name)


@pytest.mark.parametrize(
    ("gate", "digits", "factor", "name"),
    [
        ("C.violations", 2, 1, "violations"),
        ("C.em_f1_drop", 1, 100, "answer quality"),
        ("C.false_positives", 1, 100, "false positives"),
        ("C.latency", 2, 1, "latency"),
    ],
)
def test_gate_figures_are_those_of_the_results(
    gate: str, digits: int, factor: int, name: str
) -> None:
    """A row of the README states figure and interval of a gate; if it fails, the text names it.

    A figure whose gate fails is no result: the README says that it is to be measured again, or
    that it is missed, and no row of the table has it.
    """
    result = _gate(gate)
    keys = ("figure", "ci_low", "ci_high")
    figure, low, high = (f"{result[key] * factor:.{digits}f}".replace("-", MINUS) for key in keys)
    rows = [
        row
        for row in table(README.read_text(), "Results")
        if row[1].split()[0] == figure and row[2] == f"{low} to {high}"
    ]
    results = README.read_text().partition("\n## Results\n")[2].partition("\n## ")[0]
    failing = re.findall(r"(?m)^(?:To be measured again|Missed): .*$", results)
    told = [line for line in at_least(1, failing) if name in line]

    assert bool(told) == (result["status"] == "fail"), failing
    assert bool(rows) != bool(told), f"{gate}: {figure} ({low} to {high})"


@pytest.mark.parametrize(
    ("report", "ratio", "shown"),
    [
        ("bench_engine.md", r"16 adapters / none \| ([\d.]+)", "92 %"),
        ("bench_engine.md", r"1,024 registered / one \| ([\d.]+)", "93 %"),
        ("bench_engine.md", r"64 adapters / peft mixed \| ([\d.]+)", "8.2"),
        ("bench_engine.md", r"hit, 512 shared \| ([\d.]+)", "16"),
        ("bench_overhead.md", r"as it is \| unary \|[^|]*\|[^|]*\| ([\d.]+) ms", "3.3 ms"),
        ("bench_training.md", r"all layers, float32 \|[^|]*\|[^|]*\| ([\d.]+)", "1.73"),
        ("passage_qa_fleet.md", r"exact_match \|[^|]*\|[^|]*\| \+([\d.]+)", "15.7 points"),
        ("bench_gate.md", r"\| ours \|(?:[^|]*\|){6} ([\d,.]+)", "700 paired requests"),
    ],
)
def test_other_figures_are_those_of_the_results(report: str, ratio: str, shown: str) -> None:
    """A figure of the README is the rounded figure of the report that it links."""
    match = re.search(ratio, (ROOT / "results" / report).read_text())
    assert match, f"{report}: {ratio}"
    value, text = float(match[1].replace(",", "")), shown.split(maxsplit=1)[0]
    scaled = value * 100 if "%" in shown or "points" in shown else value
    digits = len(text.partition(".")[2])

    assert f"{scaled:.{digits}f}" == text
    assert shown.removesuffix(" ms") in README.read_text()


def test_ports_of_the_readme_are_the_defaults() -> None:
    """The README lists the port of every process with the variable that moves it."""
    readme = README.read_text()
    ports = Plan().ports
    at_least(5, ports)

    assert_none(
        f"{name}: {port}" for name, port in ports.items() if f"{port} (`{name}`)" not in readme
    )


def glossary() -> list[list[str]]:
    """Return the rows of the glossary."""
    text = (ROOT / "docs/glossary.md").read_text()
    headings = re.findall(r"(?m)^## (.+)$", text)
    rows = [row for heading in headings for row in table(text, heading)]
    return at_least(35, rows)


def test_glossary_terms_are_unique() -> None:
    """A term has one row."""
    terms = [row[0] for row in glossary()]

    assert len(terms) == len(set(terms))


def test_glossary_symbols_exist() -> None:
    """Each symbol of the glossary is a module, or a name that its module defines."""
    symbols = {row[2].strip("`") for row in glossary()}

    assert_none(sorted(symbol for symbol in symbols if not _is_defined(symbol)))


def _is_defined(symbol: str) -> bool:
    parts = symbol.split(".")
    root = ROOT / SOURCE_ROOTS.get(parts[0], "none")
    if root.joinpath(*parts).with_suffix(".py").is_file() or root.joinpath(*parts).is_dir():
        return True
    module = root.joinpath(*parts[:-1]).with_suffix(".py")
    if not module.is_file():
        module = root.joinpath(*parts[:-1], "__init__.py")
    return module.is_file() and parts[-1] in _names(module)


def _names(module: Path) -> set[str]:
    names = set()
    for node in tree(module).body:
        names.add(getattr(node, "name", ""))
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            names.add(getattr(target, "id", ""))
    return names


def test_glossary_names_on_the_wire_exist() -> None:
    """Each name of the wire column is in a proto, in fleet.wire, in the CRD or a file name."""
    sources = [*(ROOT / "protos").rglob("*.proto"), ROOT / "libs/fleet/wire.py"]
    sources += [ROOT / "charts/crds/missions.yaml"]
    wire = "\n".join(path.read_text() for path in at_least(5, sources))
    names = {row[3].strip("`") for row in glossary()} - {NONE, "policy.yaml"}
    at_least(15, names)
    missing = [
        name
        for name in names
        if any(not re.search(rf"\b{re.escape(part)}\b", wire) for part in _wire_parts(name))
    ]

    assert_none(sorted(missing))


def _wire_parts(name: str) -> list[str]:
    """Return what has to be found for a name: package and message of a proto, or the name."""
    package, dot, message = name.rpartition(".")
    return (
        [f"package {package}", message]
        if dot and package.startswith("bemfleet.")
        else ([part for part in name.split(".") if part])
    )

"""Scaffold of a mission: ``python -m tools.new_mission NAME``, or ``make new-mission NAME=x``.

Writes ``services/<name>``, its proto and its unit tests from ``tools/mission_template``, and then
runs every generator: code of the protos, chart values, dashboards, documentation tables and, where
helm is installed, the chart's golden files. No file outside these is edited.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from string import Template

from bem_fleet.checkout import ROOT
from bem_fleet.descriptors import Descriptor, load_descriptors

TEMPLATE = Path(__file__).parent / "mission_template"
_NAME = re.compile(r"[a-z][a-z0-9]{0,29}")
_RESERVED = {
    "canary",
    "common",
    "fleet",
    "mission",
    "redis",
    "scorer",
    "witness",
    "default",
    "pre",
    "network",
}
_FIRST_PORT, _PORT_STEP = 50061, 10
_FIRST_METRICS_PORT = 9464
GENERATORS = (
    ("tools/gen_protos.py",),
    ("-m", "tools.chart_values"),
    ("-m", "tools.dashboards"),
    ("-m", "tools.docs_tables"),
)


class NewMissionError(ValueError):
    """The mission cannot be laid down; the message names the field."""


def check_name(name: str, taken: Iterable[str]) -> None:
    """Reject a name that cannot be a folder, a proto package and a Kubernetes name.

    Raises:
        NewMissionError: The name is malformed, reserved or in use.
    """
    if not _NAME.fullmatch(name):
        raise NewMissionError(
            f"name: {name!r} is not a mission name; use 1 to 30 lower-case letters and digits, "
            "a letter first"
        )
    if name in {*taken, *_RESERVED}:
        raise NewMissionError(f"name: {name!r} is in use; choose another")


def free_ports(descriptors: Iterable[Descriptor]) -> tuple[int, int]:
    """Return the lowest free port of a mission and of a metrics page."""
    used: set[int | None] = set()
    for one in descriptors:
        used |= {one.port, one.metrics_port, *(each.metrics_port for each in one.local.helpers)}
    port = next(p for p in range(_FIRST_PORT, 65_536, _PORT_STEP) if p not in used)
    metrics_port = next(p for p in range(_FIRST_METRICS_PORT, 65_536) if p not in used)
    return port, metrics_port


def write_files(root: Path, name: str, descriptors: Iterable[Descriptor]) -> list[Path]:
    """Write the mission's own files and return them.

    Args:
        root: Checkout that gets the mission.
        name: Name of the mission.
        descriptors: Descriptors of the present services.
    """
    port, metrics_port = free_ports(descriptors)
    words: dict[str, str | int] = {
        "name": name,
        "Name": name.capitalize(),
        "NAME": name.upper(),
        "port": port,
        "metrics_port": metrics_port,
    }
    folders = {
        "service": root / "services" / name,
        "tests": root / "tests" / "unit" / "services" / name,
    }
    written = []
    for part, folder in folders.items():
        for source in sorted((TEMPLATE / part).glob("*.tmpl")):
            written.append(folder / source.name.removesuffix(".tmpl"))
            _write(written[-1], source, words)
    written.append(root / "protos" / "bemfleet" / name / "v1" / f"{name}.proto")
    _write(written[-1], TEMPLATE / "proto" / "proto.tmpl", words)
    return written


def _write(file: Path, source: Path, words: dict[str, str | int]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(Template(source.read_text()).substitute(words))


def run_generators(root: Path, written: Iterable[Path] = ()) -> None:
    """Format the written files and regenerate what is derived from protos and descriptors.

    Args:
        root: Checkout with the mission.
        written: The mission's own files; the order of their imports depends on its name.

    Raises:
        CalledProcessError: A generator failed; its own message is on standard error.
    """
    modules = [str(file) for file in written if file.suffix == ".py"]
    for options in (["check", "--quiet", "--select", "I", "--fix"], ["format", "--quiet"]):
        command = [sys.executable, "-m", "ruff", *options, "--", *modules]
        subprocess.run(command, cwd=root, check=True)
    for arguments in GENERATORS:
        subprocess.run([sys.executable, *arguments], cwd=root, check=True)
    code = "from tests.support.requirements import find; print(find('helm'))"
    golden = [sys.executable, "-c", code]
    found = subprocess.run(golden, cwd=root, check=True, capture_output=True, text=True).stdout
    if found.strip() != "None":
        subprocess.run([sys.executable, "-m", "tests.charts.rendering"], cwd=root, check=True)
    else:
        print("tests/charts/golden: helm is missing; run `make golden`", file=sys.stderr)


def main() -> int:
    """Lay a mission down; returns 1 if its name cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    name = parser.parse_args().name
    descriptors = load_descriptors(ROOT)
    try:
        check_name(name, [one.name for one in descriptors])
    except NewMissionError as err:
        print(err, file=sys.stderr)
        return 1
    written = write_files(ROOT, name, descriptors)
    for file in written:
        print(file.relative_to(ROOT))
    run_generators(ROOT, written)
    print(f"{name}: laid down; `make up` starts it, `make test` tests it")
    return 0


if __name__ == "__main__":
    sys.exit(main())

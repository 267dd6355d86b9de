"""Python code of the protos: writes libs/bemfleet and libs/inference, or compares with --check."""

import argparse
import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("bemfleet", "inference")


def generate(into: Path) -> None:
    """Write the Python modules and typed stubs of all protos below ``into``."""
    sources = sorted((ROOT / "protos").rglob("*.proto"))
    outputs = [f"--{kind}_out={into}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'protos'}"]
    # protoc finds its plugins on PATH; they are installed beside the interpreter.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**os.environ, "PATH": path}
    subprocess.run([*command, *outputs, *map(str, sources)], check=True, env=environment)
    for package in PACKAGES:
        for folder in [into / package, *(p for p in (into / package).rglob("*") if p.is_dir())]:
            (folder / "__init__.py").touch()


def differences(left: Path, right: Path) -> list[str]:
    """Return the names of files that differ between two folders or exist in one of them only."""
    names = {
        str(path.relative_to(side))
        for side in (left, right)
        for path in side.rglob("*.py*")
        if "__pycache__" not in path.parts
    }
    _, mismatch, missing = filecmp.cmpfiles(left, right, sorted(names), shallow=False)
    return [*mismatch, *missing]


def main() -> int:
    """Generate in place, or compare with the committed code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        stale = []
        for package in PACKAGES:
            fresh, committed = Path(scratch) / package, ROOT / "libs" / package
            if check:
                stale += [f"libs/{package}/{name}" for name in differences(fresh, committed)]
                continue
            shutil.rmtree(committed, ignore_errors=True)
            shutil.copytree(fresh, committed)
    for name in stale:
        sys.stderr.write(f"{name} not up to date with its proto; run `make proto`\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())

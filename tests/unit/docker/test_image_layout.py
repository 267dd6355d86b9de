"""Layout of the images, reproduced in a folder: what the Dockerfile copies must be enough."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bem_fleet.checkout import ROOT

TMP = "/" + "tmp/"  # of the image, not of this machine
SERVICES = sorted(file.parent.name for file in (ROOT / "services").glob("*/__main__.py"))


def run(code: str, folder: Path, *path: Path) -> str:
    """Run Python code with no other project on its path and return what it prints."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("service", SERVICES)
def test_service_starts_from_its_image(service: str, tmp_path: Path) -> None:
    """Libraries, the link and the own service folder are all that a service imports."""
    app = tmp_path / "app"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "libs", app / "libs", symlinks=True, ignore=ignore)
    (app / "services").mkdir()
    shutil.copy(ROOT / "services/__init__.py", app / "services")
    shutil.copytree(ROOT / "services" / service, app / "services" / service, ignore=ignore)
    code = f"import bem_fleet.services.{service}.__main__ as main; print(main.__file__)"
    printed = run(code, app, app / "libs", app)

    assert printed.strip() == str(app / f"libs/bem_fleet/services/{service}/__main__.py")


@pytest.mark.parametrize(
    ("stage", "module"),
    [("bake", "bem.bake_base_model"), ("compile", "compile_kernels")],
)
def test_build_stage_has_what_it_imports(stage: str, module: str, tmp_path: Path) -> None:
    """The files that a build stage copies are enough to import its script."""
    dockerfile = (ROOT / "docker/Dockerfile").read_text().replace("\\\n", " ")
    lines = re.findall(r"^COPY (?!--)(.+)$", dockerfile, re.MULTILINE)
    for line in lines:
        *sources, target = line.split()
        if not target.startswith(f"{TMP}{stage}/"):
            continue
        for source in sources:
            folder = tmp_path / target.removeprefix(f"{TMP}{stage}/")
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, folder, dirs_exist_ok=True)
            else:
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, folder)
    # The kernels' stage empties these: the engine itself is not there.
    for part in ("engine", "engine/native"):
        if (tmp_path / "bem" / part).is_dir():
            (tmp_path / "bem" / part / "__init__.py").write_text("")
    printed = run(f"import bem, {module}; print(bem.__file__)", tmp_path, tmp_path)

    assert printed.strip() == str(tmp_path / "bem/__init__.py")

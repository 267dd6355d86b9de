"""Build arguments of the images."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from bem_fleet.checkout import ROOT

from docker.images import images, main


def test_every_service_has_an_image() -> None:
    """Redis and all services, each with an existing lock and existing adapters."""
    found = {image.name: image for image in images()}
    services = {file.parent.name for file in (ROOT / "services").glob("*/__main__.py")}

    assert set(found) == {"redis", *services}
    for image in found.values():
        assert (ROOT / "requirements" / f"{image.lock}.lock").is_file()
        assert image.adapters in {"all", "none"} or (ROOT / "adapters" / image.adapters).is_dir()


def test_torch_makes_a_model_image() -> None:
    """The router's lock has torch, the sidecar's has not; the sidecar gets the guard's heads."""
    found = {image.name: image for image in images()}

    assert (found["router"].kind, found["router"].adapters) == ("model", "all")
    assert (found["safety"].kind, found["safety"].adapters) == ("control", "guard")
    assert found["router"].gpu_memory == "80GB"


def test_unknown_image_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """The error lists the images that exist."""
    assert main(["rooter"]) == 1
    assert "name: 'rooter' is no image; choose from redis" in capsys.readouterr().err


def test_build_script_passes_every_argument(tmp_path: Path) -> None:
    """The Dockerfile declares each build argument that the script passes."""
    script = (ROOT / "docker/build.sh").read_text()
    dockerfile = (ROOT / "docker/Dockerfile").read_text()
    for name in ("SERVICE", "KIND", "LOCK", "ADAPTERS", "MISSION", "GPU_MEMORY", "VERSION"):
        assert f'"{name}=' in script
        assert re.search(rf"^ARG .*\b{name}\b", dockerfile, re.MULTILINE)
    log = tmp_path / "log"
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\n[ "$1" = info ] && exit 0\necho "$@" >> {log}\n')
    docker.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "PYTHON": sys.executable,
        "DIGESTS": str(tmp_path / "digests"),
    }
    subprocess.run([ROOT / "docker/build.sh", "safety"], check=True, env=environment)

    assert "--build-arg SERVICE=safety --build-arg KIND=control --build-arg LOCK=safety" in (
        log.read_text()
    )
    assert "ADAPTERS=guard" in log.read_text()
    assert (tmp_path / "digests" / "digests.yaml").read_text() == "{}\n"


def test_arguments_that_differ_between_services_come_after_shared_layers() -> None:
    """A layer after `ARG SERVICE` or `ARG VERSION` is built for each service or each tag."""
    stages = (ROOT / "docker/Dockerfile").read_text().split("\nFROM ")
    for stage in stages:
        before, _, after = stage.partition("\nARG SERVICE")
        assert "${SERVICE}" not in before
        assert "\nRUN" not in after
    last = stages[-1]

    assert last.index("/common /app") < last.index("ARG SERVICE")
    assert "\nCOPY" not in last.partition("VERSION=")[2]
    assert all("ARG SERVICE" not in stage for stage in stages[:-1])

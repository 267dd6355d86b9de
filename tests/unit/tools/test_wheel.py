"""Contents of the project's wheel."""

import subprocess
import sys
import zipfile
from pathlib import Path

from bem_fleet.checkout import ROOT

IMPORT_NAMES = {"bem", "bem_fleet", "bemfleet", "fleet", "inference"}


def test_wheel_has_the_projects_own_import_names_only(tmp_path: Path) -> None:
    """No bare ``services`` or ``tools`` gets into site-packages; the services are in the wheel."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}

    assert {name for name in top if not name.endswith(".dist-info")} == IMPORT_NAMES
    assert "bem_fleet/services/router/__main__.py" in names
    assert "bem_fleet/services/router/service.yaml" in names
    assert not [name for name in names if name.endswith(".safetensors")]

"""Software bill of materials of the images."""

import json
import sys
from importlib.metadata import version
from pathlib import Path

from docker.sbom import bill_of_materials


def test_python_and_debian_packages_have_package_urls() -> None:
    """Every distribution of an environment and every line of dpkg-query is a component."""
    status = "libc6 2.36-9+deb12u10 amd64\nbase-files 12.4 all\n"

    written = json.loads(bill_of_materials("bem-fleet-x", Path(sys.prefix), status))

    urls = {one["purl"] for one in written["components"]}
    assert f"pkg:pypi/grpcio@{version('grpcio')}" in urls
    assert f"pkg:pypi/typing-extensions@{version('typing_extensions')}" in urls
    assert "pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64" in urls
    assert (written["bomFormat"], written["specVersion"]) == ("CycloneDX", "1.6")
    assert written["metadata"]["component"]["name"] == "bem-fleet-x"


def test_bill_is_complete_and_its_references_are_unique(tmp_path: Path) -> None:
    """The image depends on each component once; an empty environment has none."""
    written = json.loads(bill_of_materials("x", Path(sys.prefix), "libc6 2 amd64\n"))
    references = [one["bom-ref"] for one in written["components"]]
    root = next(one for one in written["dependencies"] if one["ref"] == "x")

    assert len(references) == len(set(references)) > 100
    assert sorted(root["dependsOn"]) == sorted(references)
    assert "components" not in json.loads(bill_of_materials("x", tmp_path, ""))

"""Software bill of materials of an image, as CycloneDX JSON: ``sbom.py NAME ENVIRONMENT``.

It lists the Python packages of an environment and the Debian packages of the system, each with its
package URL, as scanners look them up.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL


def python_packages(environment: Path) -> Iterator[Component]:
    """Yield the distributions installed in a virtual environment."""
    folders = [str(folder) for folder in environment.glob("lib/python3*/site-packages")]
    for one in distributions(path=folders):
        name = re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower()
        purl = PackageURL("pypi", name=name, version=one.version)
        declared = next(iter(one.metadata.get_all("License-Expression") or []), "")
        yield Component(
            name=name,
            version=one.version,
            purl=purl,
            bom_ref=str(purl),
            licenses=[LicenseFactory().make_from_string(declared)] if declared else [],
        )


def debian_packages(status: str) -> Iterator[Component]:
    """Yield the packages that ``dpkg-query`` lists, one a line: name, version, architecture."""
    for line in status.splitlines():
        name, version, architecture = line.split()
        where = {"arch": architecture}
        purl = PackageURL("deb", "debian", name, version, qualifiers=where)
        yield Component(name=name, version=version, purl=purl, bom_ref=str(purl))


def bill_of_materials(name: str, environment: Path, status: str) -> str:
    """Return the bill of materials of the image ``name`` as CycloneDX 1.6 JSON."""
    parts = [*python_packages(environment), *debian_packages(status)]
    bom = Bom(components=parts)
    bom.metadata.component = Component(name=name, type=ComponentType.CONTAINER, bom_ref=name)
    bom.register_dependency(bom.metadata.component, parts)
    return JsonV1Dot6(bom).output_as_string(indent=1)


def main(name: str, environment: str) -> None:
    """Write the bill of materials to standard output."""
    query = ["dpkg-query", "-W", "-f", "${Package} ${Version} ${Architecture}\n"]
    status = subprocess.run(query, check=True, capture_output=True, text=True).stdout
    sys.stdout.write(bill_of_materials(name, Path(environment), status))


if __name__ == "__main__":
    main(*sys.argv[1:])

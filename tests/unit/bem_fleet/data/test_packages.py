"""Files of installed packages."""

import hashlib

import numpy as np
import pytest
from bem.errors import DataNotFoundError
from bem_fleet.data.packages import package_file, package_file_digest, package_version


def test_file_version_and_digest_of_an_installed_package() -> None:
    """A packaged file is found with its digest, and the package's version is its own."""
    file = package_file("numpy", "version.py")

    assert file.is_file()
    assert package_file_digest(file) == hashlib.sha256(file.read_bytes()).hexdigest()
    assert package_version("numpy") == np.__version__


def test_missing_package_or_file_says_what_to_do() -> None:
    """The error names package and file and the command that installs them."""
    with pytest.raises(DataNotFoundError, match="no_such_package is not installed; run `make"):
        package_file("no_such_package", "a.txt")
    with pytest.raises(DataNotFoundError, match=r"numpy has no a\.txt; run `make setup`"):
        package_file("numpy", "a.txt")
    with pytest.raises(DataNotFoundError, match="no_such_package is not installed"):
        package_version("no_such_package")

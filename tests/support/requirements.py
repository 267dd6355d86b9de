"""Required tools of tests: a missing one is a skip on a desk and a failure under CI.

A module names what it needs by the marker ``requires("etcd", "kube-apiserver")``; a fixture calls
``require("helm")`` and gets the path. ``unavailable(reason)`` is for what is no binary, as a
cluster that cannot be started. The continuous integration sets ``CI=true``.
"""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

# The command that makes a tool available; a tool that is not listed has to be installed by hand.
SOURCES = {
    "chromium": "make browser",
    "etcd": "make control-plane",
    "helm": "make clients",
    "kube-apiserver": "make control-plane",
    "kubectl": "make clients",
    "prometheus": "make prometheus",
    "promtool": "make prometheus",
}


def in_ci() -> bool:
    """Return whether the tests run under continuous integration."""
    return os.environ.get("CI", "").lower() in {"1", "true"}


def find(name: str) -> str | None:
    """Return the path of a tool.

    Args:
        name: File name of the binary. KUBEBUILDER_ASSETS is searched first, then the folder of
            the local cluster's binaries, then PATH.
    """
    cluster = os.environ.get("BEM_CLUSTER_HOME") or Path.home() / ".cache/bem-fleet-cluster"
    folders = [os.environ.get("KUBEBUILDER_ASSETS"), Path(cluster) / "bin"]
    paths = [Path(folder) / name for folder in folders if folder]
    return next((str(path) for path in paths if path.is_file()), shutil.which(name))


def unavailable(reason: str) -> NoReturn:
    """Skip the test on a desk, fail it under CI.

    Args:
        reason: What is missing and how to get it.
    """
    if in_ci():
        pytest.fail(f"{reason} (CI=true: a test that cannot run has failed)", pytrace=False)
    pytest.skip(reason)


def require(name: str) -> str:
    """Return the path of a tool, or skip the test (under CI: fail it).

    Args:
        name: File name of the binary.
    """
    path = find(name)
    if path is None:
        source = SOURCES.get(name)
        hint = f"run `{source}`" if source else "install it"
        unavailable(f"{name}: not found on PATH or in KUBEBUILDER_ASSETS; {hint}")
    return path


def requires(*names: str) -> pytest.MarkDecorator:
    """Return the marker of tests that need tools.

    Args:
        *names: File names of the binaries.
    """
    return pytest.mark.requires(*names)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", "requires(*tools): binaries that the test needs")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Check the tools that a test's markers name."""
    for marker in item.iter_markers("requires"):
        for name in marker.args:
            require(name)

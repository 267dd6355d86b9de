"""An installation of an earlier commit: its chart, and images that are built from its tree."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.client import client_pods
from tests.cluster.conftest import adapters, cluster, prepare_namespace, removed_afterwards
from tests.cluster.kubernetes_cli import ROOT, Release, run

__all__ = ["adapters", "cluster"]
EARLIER_TAG = "earlier"


@pytest.fixture(scope="session")
def earlier_tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The tree of the commit that the variable FROM names."""
    commit = os.environ.get("FROM")
    if not commit:
        pytest.fail("FROM: no commit; run `make e2e-versions FROM=COMMIT`")
    folder = tmp_path_factory.mktemp("earlier") / "tree"
    run("git", "worktree", "add", "--detach", folder, commit)
    try:
        yield folder
    finally:
        run("git", "worktree", "remove", "--force", folder)


@pytest.fixture(scope="session")
def release(cluster: None, earlier_tree: Path) -> Iterator[Release]:  # noqa: ARG001 - only its effect is needed
    """The fleet of the earlier commit, by its own chart and images."""
    python = f"PYTHON={ROOT / '.venv/bin/python'}"
    build = earlier_tree / "docker" / "build.sh"
    run("env", f"TAG={EARLIER_TAG}", python, build, timeout_s=3600)
    installed = Release()
    prepare_namespace(installed)
    with removed_afterwards(installed):
        tag = ("--set", f"image.tag={EARLIER_TAG}")
        installed.helm("install", str(earlier_tree / "charts"), *tag, "--wait", "--timeout", "15m")
        with client_pods(installed):
            yield installed

"""What is copied to the node of an image."""

import hashlib
import json
from pathlib import Path

import pytest

from tests.cluster.manifests import lay_out


def put(layout: Path, content: bytes) -> str:
    """Write a blob and return its digest."""
    digest = hashlib.sha256(content).hexdigest()
    (layout / "blobs" / "sha256" / digest).write_bytes(content)
    return digest


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """An OCI layout with one image of two layers."""
    made = tmp_path / "layout"
    (made / "blobs" / "sha256").mkdir(parents=True)
    config, *layers = (put(made, content) for content in (b"{}", b"torch", b"code"))
    manifest = {
        "config": {"digest": f"sha256:{config}"},
        "layers": [{"digest": f"sha256:{layer}"} for layer in layers],
    }
    own = put(made, json.dumps(manifest).encode())
    named = {"org.opencontainers.image.ref.name": "x:1"}
    index = {"manifests": [{"digest": f"sha256:{own}", "annotations": named}]}
    (made / "index.json").write_text(json.dumps(index))
    (made / "oci-layout").write_text("{}")
    return made


def test_layers_of_the_node_are_not_copied(layout: Path, tmp_path: Path) -> None:
    """A layer that the node has stays out; manifest, configuration and new layers travel."""
    node, out = tmp_path / "node", tmp_path / "out"
    node.mkdir()
    known = hashlib.sha256(b"torch").hexdigest()
    (node / known).write_bytes(b"torch")

    lay_out(layout, "x:1", node, out)

    copied = {path.name for path in (out / "blobs" / "sha256").iterdir()}
    assert known not in copied
    assert hashlib.sha256(b"code").hexdigest() in copied
    assert len(copied) == 3


def test_unknown_image_is_named(layout: Path, tmp_path: Path) -> None:
    """An image that the layout lacks is an error that names it."""
    with pytest.raises(KeyError, match="y:1"):
        lay_out(layout, "y:1", tmp_path, tmp_path / "out")

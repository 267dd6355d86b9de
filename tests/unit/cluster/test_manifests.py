"""Blobs of an image that are copied to a node."""

import hashlib
import importlib.util
import json
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location(
    "manifests", Path(__file__).resolve().parents[3] / "k8s/local-cluster/manifests.py"
)
assert spec is not None
assert spec.loader is not None
manifests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(manifests)
referenced_blobs, write_layout = manifests.referenced_blobs, manifests.write_layout


def write_blob(layout: Path, content: bytes) -> str:
    """Write a blob and return its digest."""
    digest = hashlib.sha256(content).hexdigest()
    (layout / "blobs" / "sha256" / digest).write_bytes(content)
    return digest


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """An OCI layout with one image of two layers."""
    made = tmp_path / "layout"
    (made / "blobs" / "sha256").mkdir(parents=True)
    config, *layers = (write_blob(made, content) for content in (b"{}", b"torch", b"code"))
    manifest = {
        "config": {"digest": f"sha256:{config}"},
        "layers": [{"digest": f"sha256:{layer}"} for layer in layers],
    }
    own = write_blob(made, json.dumps(manifest).encode())
    named = {"org.opencontainers.image.ref.name": "x:1"}
    index = {"manifests": [{"digest": f"sha256:{own}", "annotations": named}]}
    (made / "index.json").write_text(json.dumps(index))
    (made / "oci-layout").write_text("{}")
    return made


def test_layers_of_the_node_are_not_copied(layout: Path, tmp_path: Path) -> None:
    """A layer that the node has is left out; manifest, configuration and new layers are copied."""
    out = tmp_path / "out"
    known = hashlib.sha256(b"torch").hexdigest()

    write_layout(layout, "x:1", {known}, out)

    copied = {path.name for path in (out / "blobs" / "sha256").iterdir()}
    assert known not in copied
    assert hashlib.sha256(b"code").hexdigest() in copied
    assert len(copied) == 3


def test_unknown_image_is_named(layout: Path, tmp_path: Path) -> None:
    """An image that the layout lacks is named in the error."""
    with pytest.raises(KeyError, match="y:1"):
        write_layout(layout, "y:1", set(), tmp_path / "out")


def test_unreferenced_blobs_count_as_missing(layout: Path) -> None:
    """A blob that no image of the node refers to may be garbage-collected at any moment."""
    blobs = layout / "blobs" / "sha256"
    stray = write_blob(layout, b"stray")
    image = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]

    assert hashlib.sha256(b"torch").hexdigest() in referenced_blobs(blobs, [image, "sha256:gone"])
    assert stray not in referenced_blobs(blobs, [image])
    assert referenced_blobs(blobs, []) == set()

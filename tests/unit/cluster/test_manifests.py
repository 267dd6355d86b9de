"""What is copied to the node of an image."""

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
kept, lay_out = manifests.kept, manifests.lay_out


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
    out = tmp_path / "out"
    known = hashlib.sha256(b"torch").hexdigest()

    lay_out(layout, "x:1", {known}, out)

    copied = {path.name for path in (out / "blobs" / "sha256").iterdir()}
    assert known not in copied
    assert hashlib.sha256(b"code").hexdigest() in copied
    assert len(copied) == 3


def test_unknown_image_is_named(layout: Path, tmp_path: Path) -> None:
    """An image that the layout lacks is an error that names it."""
    with pytest.raises(KeyError, match="y:1"):
        lay_out(layout, "y:1", set(), tmp_path / "out")


def test_blobs_of_no_image_are_not_relied_on(layout: Path) -> None:
    """A blob that no image of the node refers to counts as missing: it may go at any moment."""
    blobs = layout / "blobs" / "sha256"
    stray = put(layout, b"stray")
    image = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]

    assert hashlib.sha256(b"torch").hexdigest() in kept(blobs, [image, "sha256:gone"])
    assert stray not in kept(blobs, [image])
    assert kept(blobs, []) == set()

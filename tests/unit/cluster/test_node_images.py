"""Images of a buildah store on a node: ``k8s/local-cluster/node_images.py``."""

import base64
import importlib.util
import io
import json
import shutil
import stat
import sys
import tarfile
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location(
    "node_images", Path(__file__).resolve().parents[3] / "k8s/local-cluster/node_images.py"
)
assert spec is not None
assert spec.loader is not None
node_images = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = node_images
spec.loader.exec_module(node_images)

TAG = "localhost/x:1"
# containerd's client with snapshots and images as files.
CTR = """#!/usr/bin/env python3
import pathlib, sys
home, (kind, verb, *rest) = pathlib.Path({home!r}), sys.argv[1:]
(home / "calls").open("a").write(" ".join(sys.argv[1:]) + "\\n")
folder = home / kind
names = [word for word in rest if not word.startswith("-")]
if (kind, verb) == ("snapshots", "prepare"):
    (folder / names[0]).mkdir(parents=True)
elif (kind, verb) == ("snapshots", "mounts"):
    print(f"mount -t overlay overlay /mnt -o workdir=/w,upperdir={{folder / names[1]}},lowerdir=/l")
elif (kind, verb) == ("snapshots", "commit"):
    if (home / "refuses").exists():
        sys.exit("ctr: no space left on device")
    (folder / names[1]).rename(folder / names[0])
elif verb == "ls":
    print("HEAD")
    for line in sorted(folder.iterdir()) if folder.exists() else []:
        print(line.name if kind == "snapshots" else line.read_text())
elif verb == "import":
    (home / "archive").write_bytes(sys.stdin.buffer.read())
elif (kind, verb) == ("snapshots", "rm"):
    (folder / names[0]).rename(home / "removed")
"""


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a containerd that keeps snapshots as folders."""
    home = tmp_path / "node"
    home.mkdir()
    client = home / "ctr"
    client.write_text(CTR.format(home=str(home)))
    client.chmod(0o755)
    monkeypatch.setenv("CTR", str(client))
    return home


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store as buildah lays it out, with one image of two layers."""
    made = tmp_path / "storage"
    diffs = [node_images.sha256(content) for content in (b"torch", b"code")]
    config = json.dumps({"rootfs": {"diff_ids": diffs}}).encode()
    key = node_images.sha256(config)
    manifest = json.dumps({"config": {"digest": key}}).encode()
    image = made / "overlay-images" / "id"
    image.mkdir(parents=True)
    (image / "manifest").write_bytes(manifest)
    (image / f"={base64.b64encode(key.encode()).decode()}").write_bytes(config)
    record = {
        "id": "id",
        "names": [TAG],
        "layer": "upper",
        "digest": node_images.sha256(manifest),
    }
    (image.parent / "images.json").write_text(json.dumps([record]))
    layers = [
        {"id": "lower", "diff-digest": diffs[0]},
        {"id": "upper", "parent": "lower", "diff-digest": diffs[1]},
    ]
    (made / "overlay-layers").mkdir()
    (made / "overlay-layers" / "layers.json").write_text(json.dumps(layers))
    for name, content in (("lower", b"torch"), ("upper", b"code")):
        folder = made / "overlay" / name / "diff" / "app"
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(content)
        folder.chmod(0o750)
    return made


def test_snapshots_share_the_files_of_the_store(store: Path, node: Path) -> None:
    """Each layer becomes a snapshot of hard links whose folders keep their mode."""
    image = node_images.read_image(store, TAG)
    lower, upper = node_images.chain_ids(diff for diff, _ in image.layers)

    assert node_images.push(store, TAG) == image.digest

    for chain, layer in ((lower, "lower"), (upper, "upper")):
        mine = node / "snapshots" / chain / "app"
        assert (mine / "file").samefile(store / "overlay" / layer / "diff/app/file")
        assert stat.S_IMODE(mine.stat().st_mode) == 0o750
    assert upper == node_images.sha256(f"{lower} {image.layers[1][0]}".encode())


def test_import_has_manifest_and_configuration_only(store: Path, node: Path) -> None:
    """The archive names the image and holds no layer; the digest becomes a name of its own."""
    image = node_images.read_image(store, TAG)
    node_images.push(store, TAG)

    with tarfile.open(fileobj=io.BytesIO((node / "archive").read_bytes())) as archive:
        members = {one.name: one.size for one in archive}
    assert members[f"blobs/sha256/{image.digest.partition(':')[2]}"] == len(image.manifest)
    assert len(members) == 4
    calls = (node / "calls").read_text().splitlines()
    assert f"images tag --force {TAG} localhost/x@{image.digest}" in calls
    # Only the image keeps its snapshots, so that they go with it.
    assert sum(call.endswith("containerd.io/gc.root=") for call in calls) == 2


def test_present_layers_are_left_alone(store: Path, node: Path) -> None:
    """A second push makes no snapshot."""
    node_images.push(store, TAG)
    (node / "calls").unlink()
    node_images.push(store, TAG)

    assert "prepare" not in (node / "calls").read_text()


def test_interrupted_layer_leaves_no_snapshot(store: Path, node: Path) -> None:
    """A refused commit removes what was prepared, and the error has containerd's reason."""
    (node / "refuses").touch()
    with pytest.raises(node_images.StoreError, match=r"snapshots commit .*: ctr: no space left"):
        node_images.push(store, TAG)

    assert (node / "removed").exists()
    assert not list((node / "snapshots").iterdir())


def test_incomplete_store_is_named(
    store: Path, node: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing image and a missing layer are errors of one line."""
    assert node_images.main(["push", str(store), "localhost/y:1"]) == 1
    assert "image: 'localhost/y:1' is not in" in capsys.readouterr().err

    (store / "overlay-layers" / "layers.json").write_text("[]")
    assert node_images.main(["push", str(store), TAG]) == 1
    assert "are not complete" in capsys.readouterr().err
    assert not (node / "archive").exists()


def test_prune_removes_what_the_store_lost(store: Path, node: Path) -> None:
    """Images of the store and images that others loaded stay."""
    digest = node_images.read_image(store, TAG).digest
    (node / "images").mkdir()
    for number, (name, of) in enumerate(
        [
            (TAG, digest),
            ("localhost/x:0", "sha256:old"),
            ("sha256:config", "sha256:old"),
            ("registry.local/pause:1", "sha256:p"),
        ]
    ):
        (node / "images" / str(number)).write_text(f"{name} type {of}")

    assert node_images.prune(store) == ["localhost/x:0", "sha256:config"]
    assert "images rm --sync localhost/x:0 sha256:config" in (node / "calls").read_text()
    shutil.rmtree(store)
    assert TAG in node_images.prune(store)

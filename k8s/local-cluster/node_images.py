"""Images of a buildah store on a node's containerd, without a second copy of their bytes.

``node_images.py push STORE TAG`` gives the node an image and prints its digest: each layer that it
lacks becomes a snapshot of hard links to the store's files, which both sides mount read-only.
``node_images.py prune STORE`` removes the images of the node that the store no longer has.

CTR in the environment is the command of containerd's client, such as ``ctr -n k8s.io``.
"""

import base64
import hashlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_NAME = "org.opencontainers.image.ref.name"


class StoreError(Exception):
    """The store lacks an image or a layer, or containerd refuses one."""


@dataclass(frozen=True)
class StoredImage:
    """An image of the store.

    Attributes:
        manifest: Manifest, whose SHA-256 is the image's digest.
        config: Configuration as JSON, whose digest names the image in buildah.
        layers: Pairs of uncompressed digest (``sha256:…``) and folder of files, lowest layer first.
    """

    manifest: bytes
    config: bytes
    layers: tuple[tuple[str, Path], ...]

    @property
    def digest(self) -> str:
        """Digest of the manifest, ``sha256:…``."""
        return sha256(self.manifest)


def sha256(content: bytes) -> str:
    """Return the digest of a blob, ``sha256:…``."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def chain_ids(diffs: Iterable[str]) -> list[str]:
    """Return the name of each layer's snapshot: the digest of its chain of uncompressed digests."""
    chain: list[str] = []
    for diff in diffs:
        chain.append(sha256(f"{chain[-1]} {diff}".encode()) if chain else diff)
    return chain


def _json(file: Path) -> list[dict[str, Any]]:
    return json.loads(file.read_text()) if file.exists() else []


def read_image(store: Path, tag: str) -> StoredImage:
    """Return the image with a tag.

    Raises:
        StoreError: The store has no such image.
    """
    images = _json(store / "overlay-images" / "images.json")
    record = next((one for one in images if tag in one.get("names", ())), None)
    if record is None:
        raise StoreError(f"image: {tag!r} is not in {store}; build it by `cluster image`")
    folder = store / "overlay-images" / record["id"]
    manifest = (folder / "manifest").read_bytes()
    key = json.loads(manifest)["config"]["digest"]
    config = (folder / f"={base64.b64encode(key.encode()).decode()}").read_bytes()
    known = {one["id"]: one for one in _json(store / "overlay-layers" / "layers.json")}
    layers = []
    one = known.get(record["layer"])
    while one:
        layers.append((one["diff-digest"], store / "overlay" / one["id"] / "diff"))
        one = known.get(one.get("parent", ""))
    found = tuple(reversed(layers))
    if [diff for diff, _ in found] != json.loads(config)["rootfs"]["diff_ids"]:
        raise StoreError(f"image: layers of {tag!r} are not complete in {store}; build it again")
    return StoredImage(manifest, config, found)


def write_archive(image: StoredImage, tag: str) -> bytes:
    """Return an OCI archive with the manifest and configuration of an image, and no layer."""
    entry = {
        "mediaType": _MANIFEST,
        "digest": image.digest,
        "size": len(image.manifest),
        "annotations": {_NAME: tag},
    }
    files = {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(),
    }
    for blob in (image.manifest, image.config):
        files[f"blobs/sha256/{sha256(blob).removeprefix('sha256:')}"] = blob
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def _run(command: list[str], stdin: bytes | None = None) -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, check=False)
    if done.returncode:
        lines = done.stderr.decode().strip().splitlines() or [str(done.returncode)]
        raise StoreError(f"{' '.join(command[-4:])}: {lines[-1]}")
    return done.stdout.decode()


def ctr(*arguments: str, stdin: bytes | None = None) -> str:
    """Run containerd's client and return what it prints.

    Raises:
        StoreError: The client fails; the error has its last line.
    """
    return _run([*shlex.split(os.environ.get("CTR", "ctr")), *arguments], stdin)


def _shared_mount(layers: Path) -> list[str]:
    """Return the start of a command that sees the store's folder of layers without its own mount.

    buildah mounts that folder onto itself, and no hard link leaves a mount.
    """
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    if str(layers) not in mounted:
        return []
    unmount = 'umount -l "$0" && ' * mounted.count(str(layers))
    return ["unshare", "--mount", "sh", "-c", f'{unmount} exec "$@"', str(layers)]


def _files_of(snapshot: str) -> str:
    """Return the folder of the files of a snapshot that is being made."""
    mount = ctr("snapshots", "mounts", "/mnt", snapshot)
    upper = re.search(r"upperdir=([^,\s]+)", mount) or re.search(r"-t bind (\S+)", mount)
    if upper is None:
        raise StoreError(f"containerd: no folder in the mount of a snapshot: {mount.strip()}")
    return upper.group(1)


def _link_layer(folder: Path, chain: str, parent: str) -> None:
    """Make the snapshot of one layer from hard links; its folders keep their attributes."""
    key = f"linking-{os.getpid()}-{chain.removeprefix('sha256:')}"
    ctr("snapshots", "prepare", key, *([parent] if parent else []))
    try:
        _run([*_shared_mount(folder.parents[1]), "cp", "-alT", str(folder), _files_of(key)])
        ctr("snapshots", "commit", chain, key)
    except BaseException:
        ctr("snapshots", "rm", key)
        raise


def push(store: Path, tag: str) -> str:
    """Give the node an image and return its digest; what the node has already is left as it is."""
    image = read_image(store, tag)
    chains = chain_ids(diff for diff, _ in image.layers)
    present = {line.split()[0] for line in ctr("snapshots", "ls").splitlines()[1:]}
    linked = []
    for (_, folder), chain, parent in zip(image.layers, chains, ["", *chains], strict=False):
        if chain not in present:
            _link_layer(folder, chain, parent)
            linked.append(chain)
    ctr("images", "import", "--snapshotter", "overlayfs", "-", stdin=write_archive(image, tag))
    pinned = f"{tag.rpartition(':')[0]}@{image.digest}"
    ctr("images", "tag", "--force", tag, pinned)
    for chain in linked:  # from here on the image alone keeps its snapshots
        ctr("snapshots", "label", chain, "containerd.io/gc.root=")
    return image.digest


def prune(store: Path) -> list[str]:
    """Remove the images of the node that the store no longer has, and return their names."""
    kept = {one.get("digest") for one in _json(store / "overlay-images" / "images.json")}
    names: dict[str, list[str]] = {}  # the kubelet's interface adds a name without a repository
    for line in ctr("images", "ls").splitlines()[1:]:
        name, _, digest = line.split()[:3]
        names.setdefault(digest, []).append(name)
    stale = [
        name
        for digest, of_digest in names.items()
        if digest not in kept and any(name.startswith("localhost/") for name in of_digest)
        for name in of_digest
    ]
    if stale:
        ctr("images", "rm", "--sync", *stale)
    return stale


def main(arguments: list[str]) -> int:
    """Run one command; errors are one line."""
    command, store, *rest = arguments
    try:
        printed = push(Path(store), *rest) if command == "push" else " ".join(prune(Path(store)))
    except StoreError as err:
        print(f"cluster: {err}", file=sys.stderr)
        return 1
    print(printed)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""OCI layout of the image layers that a node lacks: ``manifests.py LAYOUT TAG CONTENT OUT``.

The digests of the node's images come on standard input, one per line.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

_NAME = "org.opencontainers.image.ref.name"


def manifest_blobs(blobs: Path, digest: str) -> list[str]:
    """Return the hexadecimal SHA-256 of a manifest, its configuration and its layers."""
    own = digest.removeprefix("sha256:")
    described = json.loads((blobs / own).read_text())
    parts = [described["config"], *described["layers"]]
    return [own, *(part["digest"].removeprefix("sha256:") for part in parts)]


def referenced_blobs(content: Path, images: Iterable[str]) -> set[str]:
    """Return the hexadecimal digests of the blobs that the node's images refer to.

    Other blobs in ``content`` may be garbage-collected at any moment.
    """
    found: set[str] = set()
    for digest in images:
        if (content / digest.removeprefix("sha256:")).exists():
            parts = manifest_blobs(content, digest)
            found |= {part for part in parts if (content / part).exists()}
    return found


def write_layout(layout: Path, tag: str, known: set[str], out: Path) -> int:
    """Write an OCI layout of one image, with links to its blobs and without the known layers.

    Args:
        layout: OCI layout with the complete image.
        tag: Name of the image.
        known: Hexadecimal digests of the layers that the node has.
        out: New folder for the layout.

    Returns:
        Bytes to copy.

    Raises:
        KeyError: The layout has no image of that name.
    """
    index = json.loads((layout / "index.json").read_text())
    named = {m.get("annotations", {}).get(_NAME): m for m in index["manifests"]}
    manifest = named[tag]
    blobs = out / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    (out / "oci-layout").write_text((layout / "oci-layout").read_text())
    (out / "index.json").write_text(json.dumps({**index, "manifests": [manifest]}))
    copied = 0
    own, config, *layers = manifest_blobs(layout / "blobs" / "sha256", manifest["digest"])
    # Manifest and configuration are always copied: the importer reads them from the archive.
    for digest in (own, config, *(d for d in layers if d not in known)):
        target = blobs / digest
        if not target.exists():
            source = layout / "blobs" / "sha256" / digest
            target.symlink_to(source)
            copied += source.stat().st_size
    return copied


if __name__ == "__main__":
    _layout, _tag, _content, _out = sys.argv[1:]
    _known = referenced_blobs(Path(_content), sys.stdin.read().split())
    _copied = write_layout(Path(_layout), _tag, _known, Path(_out))
    sys.stdout.write(f"{_tag}: {_copied / 1e6:.1f} MB to copy\n")

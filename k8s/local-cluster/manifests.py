"""Lays out the part of an OCI image that a node lacks: ``manifests.py LAYOUT TAG CONTENT OUT``.

Reads the digests of the node's own images from standard input, one a line.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

_NAME = "org.opencontainers.image.ref.name"


def parts_of(blobs: Path, digest: str) -> list[str]:
    """Return the SHA-256 of a manifest, its configuration and its layers, hexadecimal."""
    own = digest.removeprefix("sha256:")
    described = json.loads((blobs / own).read_text())
    parts = [described["config"], *described["layers"]]
    return [own, *(part["digest"].removeprefix("sha256:") for part in parts)]


def kept(content: Path, images: Iterable[str]) -> set[str]:
    """Return the blobs that the node keeps, hexadecimal: those of its images.

    What lies in ``content`` beside them may be collected at any moment.
    """
    found: set[str] = set()
    for digest in images:
        if (content / digest.removeprefix("sha256:")).exists():
            parts = parts_of(content, digest)
            found |= {part for part in parts if (content / part).exists()}
    return found


def lay_out(layout: Path, tag: str, known: set[str], out: Path) -> int:
    """Link into ``out`` an OCI layout of ``tag`` without the layers that are ``known``.

    Returns:
        The bytes that are left to copy.

    Raises:
        KeyError: The layout holds no image of that name.
    """
    index = json.loads((layout / "index.json").read_text())
    named = {m.get("annotations", {}).get(_NAME): m for m in index["manifests"]}
    manifest = named[tag]
    blobs = out / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    (out / "oci-layout").write_text((layout / "oci-layout").read_text())
    (out / "index.json").write_text(json.dumps({**index, "manifests": [manifest]}))
    copied = 0
    own, config, *layers = parts_of(layout / "blobs" / "sha256", manifest["digest"])
    # The small parts travel always: the importer reads them from the archive.
    for digest in (own, config, *(d for d in layers if d not in known)):
        target = blobs / digest
        if not target.exists():
            source = layout / "blobs" / "sha256" / digest
            target.symlink_to(source)
            copied += source.stat().st_size
    return copied


if __name__ == "__main__":
    _layout, _tag, _content, _out = sys.argv[1:]
    _known = kept(Path(_content), sys.stdin.read().split())
    _copied = lay_out(Path(_layout), _tag, _known, Path(_out))
    sys.stdout.write(f"{_tag}: {_copied / 1e6:.1f} MB to copy\n")

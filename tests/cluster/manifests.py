"""Lays out the part of an OCI image that a node lacks: ``manifests.py LAYOUT TAG CONTENT OUT``."""

import json
import sys
from pathlib import Path

_NAME = "org.opencontainers.image.ref.name"


def digests(layout: Path, manifest: dict[str, str]) -> list[str]:
    """Return the SHA-256 of a manifest, its configuration and its layers, hexadecimal."""
    own = manifest["digest"].removeprefix("sha256:")
    described = json.loads((layout / "blobs" / "sha256" / own).read_text())
    parts = [described["config"], *described["layers"]]
    return [own, *(part["digest"].removeprefix("sha256:") for part in parts)]


def lay_out(layout: Path, tag: str, content: Path, out: Path) -> int:
    """Link into ``out`` an OCI layout of ``tag`` without the blobs that ``content`` has.

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
    own, config, *layers = digests(layout, manifest)
    # The small parts travel always: the importer reads them from the archive.
    for digest in (own, config, *(d for d in layers if not (content / d).exists())):
        target = blobs / digest
        if not target.exists():
            source = layout / "blobs" / "sha256" / digest
            target.symlink_to(source)
            copied += source.stat().st_size
    return copied


if __name__ == "__main__":
    _layout, _tag, _content, _out = sys.argv[1:]
    _copied = lay_out(Path(_layout), _tag, Path(_content), Path(_out))
    sys.stdout.write(f"{_tag}: {_copied / 1e6:.1f} MB to copy\n")

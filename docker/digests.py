"""Helm values that pin each image to its digest: ``python -m docker.digests FOLDER``.

``docker/build.sh`` writes the digest of each image that it builds into a file of the image's name.
"""

import re
import sys
from pathlib import Path
from typing import Any

import yaml

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# Other images are those of services.
_PLACES = {"redis": ("redis",), "safety": ("safetySidecar",)}


class DigestError(ValueError):
    """A file holds no digest."""


def pinned_values(digests: dict[str, str]) -> dict[str, Any]:
    """Return the chart's values for digests by image name.

    Raises:
        DigestError: A digest is not ``sha256:`` and 64 hexadecimal digits.
    """
    values: dict[str, Any] = {}
    for name, digest in sorted(digests.items()):
        if not _DIGEST.fullmatch(digest):
            raise DigestError(f"{name}: {digest!r} is no digest; build the image again")
        place = values
        for key in _PLACES.get(name, ("services", name)):
            place = place.setdefault(key, {})
        place["image"] = {"digest": digest}
    return values


def main(folder: Path) -> None:
    """Print the values for the digests in a folder, as YAML."""
    digests = {file.name: file.read_text().strip() for file in folder.iterdir() if not file.suffix}
    yaml.safe_dump(pinned_values(digests), sys.stdout, sort_keys=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

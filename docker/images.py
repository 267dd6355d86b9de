"""Images of the fleet and their build arguments, from the service descriptors.

``python -m docker.images [NAME…]`` prints one line for each image: name, kind of base, lock,
adapters, and the labels of mission and GPU memory.
"""

import sys
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from bem_fleet.checkout import ROOT
from bem_fleet.descriptors import load_descriptors


@dataclass(frozen=True)
class Image:
    """Build arguments of one image.

    Attributes:
        name: Name of the image: a service, or ``redis``.
        kind: ``model`` for an image with torch and the base model, else ``control``.
        lock: Prefix of the locks in ``requirements/`` that it installs.
        adapters: ``all``, ``none``, or the folder of ``adapters/`` that it holds.
        mission: Label ``MISSION``.
        gpu_memory: Label ``GPU_MEMORY``.
    """

    name: str
    kind: str
    lock: str
    adapters: str = "none"
    mission: str = "none"
    gpu_memory: str = "0GB"


def images(root: Path = ROOT) -> list[Image]:
    """Return all images of a checkout, Redis first."""
    found = [Image("redis", "control", "redis")]
    for one in load_descriptors(root):
        locked = (root / "requirements" / f"{one.image_lock}.lock").read_text()
        kind = "model" if "\ntorch==" in f"\n{locked}" else "control"
        arguments = (one.image_lock, one.image_adapters, one.label.mission, one.label.gpu_memory)
        found.append(Image(one.name, kind, *arguments))
    return found


def main(names: Sequence[str]) -> int:
    """Print the images of the given names, or all; returns 1 if a name is unknown."""
    known = {image.name: image for image in images()}
    for name in names or known:
        if name not in known:
            print(f"name: {name!r} is no image; choose from {', '.join(known)}", file=sys.stderr)
            return 1
        print(*astuple(known[name]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Puts the packaged base model into an image: de-quantised once, at the build."""

import os
import sys
from pathlib import Path

from bem.backbone import PACKAGED_MODEL, load_backbone, locate_model


def bake(cache: Path) -> None:
    """De-quantise the packaged model into ``cache`` and record its digest beside it."""
    # Layers keep whole seconds: the digest's memo must match the file as the container sees it.
    source = locate_model(PACKAGED_MODEL)
    whole = int(source.stat().st_mtime)
    os.utime(source, (whole, whole))
    backbone = load_backbone(cache=cache)
    sys.stdout.write(f"baked {backbone.name} {backbone.digest}\n")


if __name__ == "__main__":
    bake(Path(sys.argv[1]))

"""De-quantisation of the packaged base model at image build time."""

import os
import sys
from pathlib import Path

from bem.backbone import PACKAGED_MODEL, load_backbone, locate_model


def bake(cache: Path) -> None:
    """De-quantise the packaged model into ``cache`` and record its digest beside it."""
    # Image layers store modification times in whole seconds, and the recorded digest is valid only
    # for the time that the container sees.
    source = locate_model(PACKAGED_MODEL)
    seconds = int(source.stat().st_mtime)
    os.utime(source, (seconds, seconds))
    backbone = load_backbone(cache=cache)
    sys.stdout.write(f"baked {backbone.name} {backbone.digest}\n")


if __name__ == "__main__":
    bake(Path(sys.argv[1]))

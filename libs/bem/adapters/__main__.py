"""Adapter conversion command: ``python -m bem.adapters import|export`` for PEFT folders."""

import argparse
import sys
from pathlib import Path

from bem.adapters.artifact import read_adapter, read_adapter_card
from bem.adapters.peft_folder import export_lora, import_lora
from bem.backbone import load_backbone


def main(arguments: list[str] | None = None) -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(prog="python -m bem.adapters", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    importing = commands.add_parser("import", help="make an adapter from a PEFT folder")
    importing.add_argument("folder", type=Path, help="folder written by PEFT")
    importing.add_argument("--name", required=True, help="name of the adapter")
    importing.add_argument("--out", type=Path, required=True, help="folder of the artifact")
    importing.add_argument(
        "--like",
        type=Path,
        default=Path("adapters/passage-qa"),
        help="adapter whose feature layer is used",
    )
    importing.add_argument("--cache", type=Path, default=Path(".cache"))
    exporting = commands.add_parser("export", help="make a PEFT folder from an adapter")
    exporting.add_argument("folder", type=Path, help="folder of the artifact")
    exporting.add_argument("--out", type=Path, required=True, help="folder for PEFT")
    parsed = parser.parse_args(arguments)
    if parsed.command == "import":
        layer = read_adapter_card(parsed.like).feature_layer
        card = import_lora(
            parsed.folder,
            parsed.out,
            backbone=load_backbone(cache=parsed.cache / "models"),
            name=parsed.name,
            feature_layer=layer,
        )
        sys.stdout.write(f"adapter {card.name}: rank {card.rank}, {len(card.layers)} layers\n")
        return
    card = read_adapter_card(parsed.folder)
    exact = export_lora(read_adapter(parsed.folder, base_digest=card.base_digest), parsed.out)
    outputs = "the adapter's outputs" if exact else "its outputs at code one, without controller"
    sys.stdout.write(f"{parsed.out}: PEFT computes {outputs}\n")


if __name__ == "__main__":
    main()

"""Command line: ``python -m bem.adapters import|export``, between adapters and PEFT's folders."""

import argparse
import sys
from pathlib import Path

from bem.adapters.artifact import read_adapter, read_adapter_card
from bem.adapters.peft_folder import export_lora, import_lora
from bem.backbone import load_backbone


def main(arguments: list[str] | None = None) -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(prog="bem.adapters", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    take = commands.add_parser("import", help="make an adapter from a PEFT folder")
    take.add_argument("folder", type=Path)
    take.add_argument("--name", required=True)
    take.add_argument("--out", type=Path, required=True)
    take.add_argument("--like", type=Path, default=Path("adapters/passage-qa"))
    take.add_argument("--cache", type=Path, default=Path(".cache"))
    give = commands.add_parser("export", help="make a PEFT folder from an adapter")
    give.add_argument("folder", type=Path)
    give.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args(arguments)
    if chosen.command == "import":
        layer = read_adapter_card(chosen.like).feature_layer
        card = import_lora(
            chosen.folder,
            chosen.out,
            backbone=load_backbone(cache=chosen.cache / "models"),
            name=chosen.name,
            feature_layer=layer,
        )
        sys.stdout.write(f"adapter {card.name}: rank {card.rank}, {len(card.layers)} layers\n")
        return
    card = read_adapter_card(chosen.folder)
    same = export_lora(read_adapter(chosen.folder, base_digest=card.base_digest), chosen.out)
    said = "the same answers" if same else "code one; the controller lies beside"
    sys.stdout.write(f"{chosen.out}: to PEFT it gives {said}\n")


if __name__ == "__main__":
    main()

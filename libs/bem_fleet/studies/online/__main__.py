"""Study of online learning: ``python -m bem_fleet.studies.online --bank adapters/online``.

Each method learns the same stream of corrections, a share of which is wrong, and is scored by free
generation after all of it: corrected prompts, probes in wordings that no correction has, requests
in the corrections' wordings of other families, and unrelated requests. The families are those of
development; with ``--final`` they are the three of gate B, which that run opens and counts.
"""

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from bem.backbone import PACKAGED_MODEL, Backbone, load_backbone
from bem.files import write_atomic
from bem.online.artifact import BankArtifact, read_bank
from bem.online.learner import LearnerSettings
from bem.online.natural_gradient import StepSettings
from bem.online.objective import ObjectiveSettings
from bem.testing import tiny_backbone
from bem.training.online.code_likelihood import DecoderLikelihood

from bem_fleet.data.held_out import HELD_OUT, final_evaluation
from bem_fleet.data.instruction_families import instruction_families
from bem_fleet.guard.scoring.embedding import MiniLM
from bem_fleet.studies.online.correction_stream import (
    Correction,
    correction_stream,
    study_items,
)
from bem_fleet.studies.online.correction_systems import (
    BaseModel,
    CorrectionSystem,
    Embed,
    InContextCorrection,
    KeywordRule,
    StudyEngine,
)
from bem_fleet.studies.online.grace import Grace, GraceSettings
from bem_fleet.studies.online.stream_scoring import StreamScore, score_stream
from bem_fleet.studies.online.trained_systems import (
    FineTunedLora,
    LearnedCodes,
    LoraSize,
    without_penalty,
    without_replay,
)

PROG = "python -m bem_fleet.studies.online"
IN_CONTEXT_FLOOR = 0.5
"""Least cosine of a shown correction; chosen on development families."""
LORA_RANK = 8
CEILING = "offline LoRA on clean corrections"

Made = Callable[[], CorrectionSystem]


def methods(
    backbone: Backbone,
    artifact: BankArtifact,
    engine: StudyEngine,
    embed: Embed,
    *,
    options: argparse.Namespace,
    folder: Path,
) -> dict[str, Made]:
    """Return what makes each method afresh, by its short name.

    Args:
        backbone: Base model.
        artifact: Bank of the codes.
        engine: Engine that generates.
        embed: Sentence embeddings.
        options: Parsed command line.
        folder: Folder of the LoRA trainings.
    """
    model = DecoderLikelihood(backbone, artifact.bank, feature_layer=artifact.card.feature_layer)
    full = LearnerSettings(
        seed=options.seed,
        step=StepSettings(steps=options.steps),
        objective=ObjectiveSettings(hint=0.0),
    )

    def codes(name: str, settings: LearnerSettings) -> LearnedCodes:
        return LearnedCodes(name, engine, model, artifact, settings=settings, batch=options.batch)

    def lora(name: str) -> FineTunedLora:
        size = LoraSize(min(LORA_RANK, artifact.card.rank), options.epochs, seed=options.seed)
        return FineTunedLora(name, engine, artifact, size, folder / name.replace(" ", "-"))

    return {
        "base": lambda: BaseModel(engine),
        "codes": lambda: codes("learned codes", full),
        "codes-no-ewc": lambda: codes("learned codes, no EWC", without_penalty(full)),
        "codes-no-replay": lambda: codes("learned codes, no replay", without_replay(full)),
        "in-context": lambda: InContextCorrection(engine, embed, IN_CONTEXT_FLOOR),
        "keyword": lambda: KeywordRule(engine),
        "grace-last": lambda: Grace(backbone, GraceSettings("last token")),
        "grace-sentence": lambda: Grace(backbone, GraceSettings("sentence")),
        "lora": lambda: lora("replay LoRA on the stream"),
        "ceiling": lambda: lora(CEILING),
    }


def run(options: argparse.Namespace) -> Iterator[tuple[str, StreamScore]]:
    """Score the methods in turn; yields each one's name and score.

    Args:
        options: Parsed command line.
    """
    tiny = options.backbone == "tiny"
    backbone = tiny_backbone() if tiny else load_backbone(options.backbone, cache=options.models)
    artifact = read_bank(options.bank, base_digest=backbone.digest)
    families = instruction_families(HELD_OUT if options.final else "dev")
    stream = correction_stream(families, options.corrections, options.wrong, options.seed)
    clean = correction_stream(families, options.corrections, 0.0, options.seed)
    items = study_items(families, options.probes, options.others, options.seed)
    look = max(1, options.look) * len(families)
    with tempfile.TemporaryDirectory() as folder:
        engine = StudyEngine(backbone, artifact.card, Path(folder))
        engine.start()
        with closing(engine):
            made = methods(
                backbone, artifact, engine, MiniLM().embed, options=options, folder=Path(folder)
            )
            for method in options.methods or made:
                system = made[method]()
                taught: Sequence[Correction] = clean if system.name == CEILING else stream
                # A LoRA is trained anew at each look: it has one, at the end.
                own = len(stream) if isinstance(system, FineTunedLora) else look
                yield system.name, score_stream(system, taught, items, engine.texts, own)


def markdown(report: dict[str, Any]) -> str:
    """Return the report as a table."""
    size = report["size"]
    setup = (
        f"{size['corrections']} corrections of each of {len(report['families'])} families, "
        f"{size['wrong']:.0%} of them wrong; {size['probes']} probes each; seed {size['seed']}."
    )
    lines = [
        "# Online learning: what corrections fix, and what they break",
        "",
        setup,
        "",
        "| method | corrected prompts | probes | least family | neighbours kept | unrelated kept |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, score in report["methods"].items():
        shares = list(score["paraphrase"].values())
        cells = (
            score["efficacy"],
            sum(shares) / len(shares),
            min(shares),
            score["neighbours_kept"],
            score["unrelated_kept"],
        )
        lines.append(f"| {name} | " + " | ".join(f"{one:.1%}" for one in cells) + " |")
    return "\n".join(lines) + "\n"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(prog=PROG, description=__doc__)
    made.add_argument("--bank", type=Path, default=Path("adapters/online"))
    made.add_argument("--backbone", default=PACKAGED_MODEL, help="base model, or tiny")
    made.add_argument("--models", type=Path, default=Path(".cache/models"))
    made.add_argument("--out", type=Path, required=True, help="folder of the report")
    made.add_argument("--methods", nargs="+", default=None, help="short names; all without it")
    made.add_argument("--corrections", type=int, default=200, help="of each family")
    made.add_argument("--wrong", type=float, default=0.1, help="share of wrong corrections")
    made.add_argument("--probes", type=int, default=200, help="of each family")
    made.add_argument("--others", type=int, default=200, help="neighbours, and unrelated requests")
    made.add_argument("--look", type=int, default=8, help="corrections of a family between looks")
    made.add_argument("--batch", type=int, default=8, help="corrections of one update")
    made.add_argument("--steps", type=int, default=6, help="most steps of one update")
    made.add_argument("--epochs", type=int, default=3, help="passes of the LoRA")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--final", action="store_true", help="opens the families of gate B")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study; the report is written after each method.

    Args:
        arguments: Arguments without the program's name; None takes those of the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(words)
    command = shlex.join([*PROG.split(), *words])
    size = ("corrections", "wrong", "probes", "others", "look", "batch", "steps", "epochs", "seed")
    report: dict[str, Any] = {
        "command": command,
        "size": {name: getattr(options, name) for name in size},
        "methods": {},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    with final_evaluation(command) if options.final else nullcontext() as opening:
        for name, score in run(options):
            report["methods"][name] = score.to_json()
            report["families"] = sorted(score.paraphrase)
            report["held_out"] = opening.counts if opening else {}
            text = json.dumps(report, indent=1) + "\n"
            write_atomic(options.out / "online.json", text.encode())
            write_atomic(options.out / "online.md", markdown(report).encode())
            sys.stdout.write(f"{name}: {json.dumps(score.to_json())}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()

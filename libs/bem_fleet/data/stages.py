"""Resumable pipeline stage: inputs to JSONL rows, cached under the hash of code and settings.

A finished stage is not run again, and a killed one resumes after its last block: outcomes go to a
journal in blocks of 256, and the artifact is assembled from the journal at the end.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from bem.digests import file_digest
from bem.errors import DataFormatError
from bem.files import write_atomic
from bem.journal import Journal, Row
from tqdm import tqdm

# Outputs per journal write: a kill loses at most this many.
BLOCK_ROWS = 256


@dataclass(frozen=True)
class StageOutput:
    """Output of a stage for one input.

    Attributes:
        rows: Rows to write; empty when the input was dropped.
        reason: Reason for dropping the input; empty when it was kept.
        dedup_key: Key for the detection of later duplicates; restored into ``seen`` on resume.
    """

    rows: tuple[Row, ...] = ()
    reason: str = ""
    dedup_key: str = ""


@dataclass(frozen=True)
class Stage:
    """Processing step from inputs to rows.

    Attributes:
        name: ``raw``, ``clean``, ``format`` or ``batch``.
        version: Version of the function; artifacts of another version are not reused.
        settings: JSON of everything besides the input that determines the output.
        function: Deterministic function from one input and the dedup keys seen so far to its
            output.
    """

    name: str
    version: str
    settings: dict[str, Any]
    function: Callable[[Any, set[str]], StageOutput]

    def key(self, source: str) -> str:
        """Return the hash that names the artifact for a source with this digest."""
        identity = [self.name, self.version, self.settings, source]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Artifact:
    """Rows of a finished stage on disk.

    Attributes:
        stage: Name of the stage.
        key: Hash of stage, settings and source.
        path: JSONL file.
        sha256: SHA-256 of the file, hexadecimal.
        rows: Number of rows written.
        read: Number of inputs read.
        dropped: Number of dropped inputs by reason.
        resumed: Number of inputs processed by earlier runs; equals ``read`` on a cache hit.
    """

    stage: str
    key: str
    path: Path
    sha256: str
    rows: int
    read: int
    dropped: dict[str, int] = field(default_factory=dict)
    resumed: int = 0

    def load(self) -> Iterator[Row]:
        """Yield the rows."""
        with self.path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)


def run_stage(stage: Stage, inputs: Iterable[Any], source: str, folder: Path) -> Artifact:
    """Run a stage over all inputs, or return the artifact of an earlier run.

    Args:
        stage: Stage to run.
        inputs: Inputs, read one at a time and only if some are left to process.
        source: Digest of the inputs.
        folder: Folder of the artifacts; created if missing.

    Raises:
        DataFormatError: The manifest of an artifact is not valid.
    """
    key = stage.key(source)
    path = folder / f"{stage.name}-{key[:16]}.jsonl"
    if cached := _load_artifact(path):
        return cached
    path.unlink(missing_ok=True)
    journal = Journal(path.with_suffix(".part"))
    seen = {row["dedup_key"] for row in journal.rows() if row["dedup_key"]}
    resumed = journal.count
    _process_inputs(stage, islice(inputs, resumed, None), seen, journal)
    return _write_artifact(stage, key, path, resumed)


def _process_inputs(stage: Stage, inputs: Iterable[Any], seen: set[str], journal: Journal) -> None:
    block: list[Row] = []
    # disable=None shows the bar on a terminal only: a log would keep every frame of it.
    bar = tqdm(inputs, desc=stage.name, initial=journal.count, unit="row", disable=None)
    for item in bar:
        block.append(asdict(stage.function(item, seen)))
        if len(block) >= BLOCK_ROWS:
            journal.add(*block)
            block = []
    journal.add(*block)


def _write_artifact(stage: Stage, key: str, path: Path, resumed: int) -> Artifact:
    """Assemble the artifact from the journal.

    The manifest is written last: an artifact without one counts as unfinished.
    """
    part = path.with_suffix(".part")
    dropped: Counter[str] = Counter()
    counts = {"read": 0, "rows": 0}
    digest = hashlib.sha256()

    def lines() -> Iterator[bytes]:
        for output in Journal(part).rows():
            counts["read"] += 1
            dropped.update([output["reason"]] if output["reason"] else [])
            for row in output["rows"]:
                line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
                digest.update(line)
                counts["rows"] += 1
                yield line

    write_atomic(path, lines())
    artifact = Artifact(
        stage.name,
        key,
        path,
        digest.hexdigest(),
        **counts,
        dropped=dict(sorted(dropped.items())),
        resumed=resumed,
    )
    manifest = {name: value for name, value in asdict(artifact).items() if name != "path"}
    write_atomic(path.with_suffix(".json"), (json.dumps(manifest, indent=1) + "\n").encode())
    part.unlink()
    return artifact


def _load_artifact(path: Path) -> Artifact | None:
    """Return the artifact at ``path`` if it is complete and has the hash of its manifest."""
    manifest = path.with_suffix(".json")
    if not manifest.exists() or not path.exists():
        return None
    try:
        stated = Artifact(path=path, **json.loads(manifest.read_text()))
    except (ValueError, TypeError) as err:
        raise DataFormatError(f"{manifest.name}: not a valid manifest ({err}); remove it") from err
    if file_digest(path) != stated.sha256:
        return None
    return Artifact(**{**vars(stated), "resumed": stated.read})

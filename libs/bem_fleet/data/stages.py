"""One stage of the pipeline: rows in, rows out, on disk under the hash of what made them.

A stage that ran before is not run again; one that was killed goes on after its last block.
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
from bem.journal import Journal, Row
from tqdm import tqdm

# Outcomes written at once: a kill loses at most these.
BLOCK_ROWS = 256


@dataclass(frozen=True)
class StageOutput:
    """What a stage made of one input.

    Attributes:
        rows: What it writes; empty when the input was dropped.
        reason: Why it was dropped.
        dedup_key: What the stage must remember of it; comes back in ``seen`` after a restart.
    """

    rows: tuple[Row, ...] = ()
    reason: str = ""
    dedup_key: str = ""


@dataclass(frozen=True)
class Stage:
    """A step from inputs to rows.

    Attributes:
        name: ``raw``, ``clean``, ``format``, ``batch``.
        version: Of the function; another one does not use old artifacts.
        settings: All that the outcome depends on besides the input; JSON.
        function: From one input and the marks seen so far to its outcome; the same for the same.
    """

    name: str
    version: str
    settings: dict[str, Any]
    function: Callable[[Any, set[str]], StageOutput]

    def key(self, source: str) -> str:
        """Return the hash that names the artifact made of a source with this digest."""
        stated = [self.name, self.version, self.settings, source]
        return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Artifact:
    """A stage's rows on disk.

    Attributes:
        stage: Its name.
        key: Hash of stage, settings and source.
        path: JSONL file.
        sha256: Of the file.
        rows: Written.
        read: Inputs.
        dropped: Inputs dropped, by reason.
        resumed: Inputs that an earlier, killed run had done; equals ``read`` when nothing ran.
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
    """Run a stage over all inputs, or return what an earlier run wrote.

    Args:
        stage: What to do.
        inputs: Read one at a time; only when something is left to do.
        source: Digest of the inputs.
        folder: For artifacts; made if missing.

    Raises:
        DataFormatError: An artifact's manifest is broken.
    """
    key = stage.key(source)
    path = folder / f"{stage.name}-{key[:16]}.jsonl"
    if known := _load_artifact(path):
        return known
    path.unlink(missing_ok=True)
    journal = Journal(path.with_suffix(".part"))
    seen = {row["dedup_key"] for row in journal.rows() if row["dedup_key"]}
    resumed = journal.count
    _process_inputs(stage, islice(inputs, resumed, None), seen, journal)
    return _write_artifact(stage, key, path, resumed)


def _process_inputs(stage: Stage, inputs: Iterable[Any], seen: set[str], journal: Journal) -> None:
    block: list[Row] = []
    # No bar where nobody looks: a log would keep every frame of it.
    bar = tqdm(inputs, desc=stage.name, initial=journal.count, unit="row", disable=None)
    for one in bar:
        block.append(asdict(stage.function(one, seen)))
        if len(block) >= BLOCK_ROWS:
            journal.add(*block)
            block = []
    journal.add(*block)


def _write_artifact(stage: Stage, key: str, path: Path, resumed: int) -> Artifact:
    """Make the artifact of the journal; its manifest, written last, says that it is whole."""
    part = path.with_suffix(".part")
    dropped: Counter[str] = Counter()
    read = rows = 0
    digest = hashlib.sha256()
    scratch = path.with_suffix(".new")
    with scratch.open("wb") as file:
        for outcome in Journal(part).rows():
            read += 1
            dropped.update([outcome["reason"]] if outcome["reason"] else [])
            for row in outcome["rows"]:
                line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
                digest.update(line)
                file.write(line)
                rows += 1
    scratch.replace(path)
    counts = dict(sorted(dropped.items()))
    made = Artifact(stage.name, key, path, digest.hexdigest(), rows, read, counts, resumed)
    manifest = {name: value for name, value in asdict(made).items() if name != "path"}
    path.with_suffix(".json").write_text(json.dumps(manifest, indent=1) + "\n")
    part.unlink()
    return made


def _load_artifact(path: Path) -> Artifact | None:
    """Return the artifact at ``path`` if it is whole and has the stated hash."""
    manifest = path.with_suffix(".json")
    if not manifest.exists() or not path.exists():
        return None
    try:
        stated = Artifact(path=path, **json.loads(manifest.read_text()))
    except (ValueError, TypeError) as err:
        raise DataFormatError(f"{manifest.name} is no manifest ({err}); remove it") from err
    if file_digest(path) != stated.sha256:
        return None
    return Artifact(**{**vars(stated), "resumed": stated.read})

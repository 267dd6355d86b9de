"""Raw, clean, format, batch: a set from its package's files to batches of conversations."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeVar

from bem.digests import code_digest
from bem.journal import Row

from bem_fleet.data.cleaning import CleaningPlan, clean_record
from bem_fleet.data.datasets import DatasetSpec
from bem_fleet.data.packages import package_file, package_file_digest
from bem_fleet.data.records import Record, parse_record
from bem_fleet.data.splits import assign_split
from bem_fleet.data.stages import Artifact, Stage, StageOutput, run_stage

T = TypeVar("T")


@dataclass(frozen=True)
class FormatPlan:
    """How a record becomes a conversation.

    Attributes:
        instruction: Stands before passage and question; may be empty.
        split_seed: Of the split by passage, or by question where there is no passage.
    """

    instruction: str = ""
    split_seed: int = 0


@dataclass(frozen=True)
class BatchPlan:
    """How rows are grouped.

    Attributes:
        size: Rows in a batch at most.
        window: Rows among which like lengths are looked for; memory holds as many.
    """

    size: int = 8
    window: int = 512


@dataclass(frozen=True)
class PipelinePlan:
    """All choices of a run."""

    cleaning: CleaningPlan = field(default_factory=CleaningPlan)
    formatting: FormatPlan = field(default_factory=FormatPlan)
    batching: BatchPlan = field(default_factory=BatchPlan)


def default_plan(spec: DatasetSpec) -> PipelinePlan:
    """Return the plan of a set: what has answers must have one."""
    checks = ("readable", "answered") if spec.has_answers else ("readable",)
    return PipelinePlan(cleaning=CleaningPlan(checks=checks))


def run_pipeline(
    records: Iterable[Record], source: str, plan: PipelinePlan, folder: Path
) -> dict[str, Artifact]:
    """Run all stages; each reads what the one before wrote.

    Args:
        records: Read only if the raw stage has something left to do.
        source: Digest of where they come from.
        plan: All choices.
        folder: For artifacts.

    Returns:
        The artifacts by stage: ``raw``, ``clean``, ``format``, ``batch``.
    """
    code = code_digest(Path(__file__).parent)
    raw = run_stage(Stage("raw", code, {}, _raw_output), records, source, folder)
    cleaning = Stage("clean", code, asdict(plan.cleaning), _cleaning_function(plan.cleaning))
    cleaned = run_stage(cleaning, raw.load(), raw.sha256, folder)
    formatting = Stage(
        "format", code, asdict(plan.formatting), _formatting_function(plan.formatting)
    )
    formatted = run_stage(formatting, cleaned.load(), cleaned.sha256, folder)
    batching = Stage("batch", code, asdict(plan.batching), _batching_function(plan.batching))
    windows = _row_windows(formatted.load(), plan.batching.window)
    batched = run_stage(batching, windows, formatted.sha256, folder)
    return {one.stage: one for one in (raw, cleaned, formatted, batched)}


def run_dataset(
    spec: DatasetSpec, folder: Path, plan: PipelinePlan | None = None
) -> dict[str, Artifact]:
    """Run the pipeline on a packaged set.

    Raises:
        DataNotFoundError: Its package is not installed.
        DataFormatError: A row of it lacks a field.
    """
    plan = plan or default_plan(spec)
    return run_pipeline(spec.read(), source_digest(spec), plan, folder / spec.name)


def source_digest(spec: DatasetSpec) -> str:
    """Return the SHA-256 of a set's files: of the one file, or over the files' hashes in order."""
    hashes = [package_file_digest(package_file(spec.package, name)) for name in spec.files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def format_prompt(instruction: str, passage: str, question: str) -> str:
    """Return the user's message: instruction, passage and question, whichever there are."""
    parts = [instruction, f"Passage: {passage}" if passage else ""]
    parts.append(f"Question: {question}" if passage or instruction else question)
    return "\n\n".join(part for part in parts if part)


def _raw_output(record: Record, seen: set[str]) -> StageOutput:  # noqa: ARG001 - one shape for all stages
    return StageOutput((record.row(),))


def _cleaning_function(plan: CleaningPlan) -> Callable[[Row, set[str]], StageOutput]:
    def run(row: Row, seen: set[str]) -> StageOutput:
        found = clean_record(parse_record(row), plan, seen)
        rows = (found.record.row(),) if found.record else ()
        return StageOutput(rows, found.reason, found.dedup_key)

    return run


def _formatting_function(plan: FormatPlan) -> Callable[[Row, set[str]], StageOutput]:
    def run(row: Row, seen: set[str]) -> StageOutput:  # noqa: ARG001 - one shape for all stages
        record = parse_record(row)
        prompt = format_prompt(plan.instruction, record.passage, record.question)
        # A generated question knows its split: its texts are drawn from that split's passages.
        drawn = assign_split(record.passage or record.question, plan.split_seed)
        formatted = {
            "key": record.key,
            "split": record.labels.get("split", drawn),
            "messages": [{"role": "user", "content": prompt}],
            "golds": list(record.answers),
            "category": record.category,
        }
        return StageOutput((formatted,))

    return run


def _batching_function(plan: BatchPlan) -> Callable[[list[Row], set[str]], StageOutput]:
    def run(window: list[Row], seen: set[str]) -> StageOutput:  # noqa: ARG001 - as above
        batches: list[Row] = []
        for split in sorted({row["split"] for row in window}):
            like = sorted(
                (row for row in window if row["split"] == split), key=_conversation_length
            )
            starts = range(0, len(like), plan.size)
            batches += [{"split": split, "rows": like[at : at + plan.size]} for at in starts]
        return StageOutput(tuple(batches))

    return run


def _conversation_length(row: Row) -> tuple[int, str]:
    return sum(len(turn["content"]) for turn in row["messages"]), row["key"]


def _row_windows(rows: Iterator[T], size: int) -> Iterator[list[T]]:
    while window := list(islice(rows, size)):
        yield window

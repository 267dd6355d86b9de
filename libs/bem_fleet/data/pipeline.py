"""Data pipeline: raw, clean, format and batch stages from records to batches of conversations."""

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
from bem_fleet.data.near_duplicates import near_duplicate_clusters, text_keys
from bem_fleet.data.packages import package_file, package_file_digest
from bem_fleet.data.prompt_wording import content_parts
from bem_fleet.data.records import Record, parse_record
from bem_fleet.data.splits import assign_split, passage_cluster
from bem_fleet.data.stages import Artifact, Stage, StageOutput, run_stage

T = TypeVar("T")


@dataclass(frozen=True)
class FormatPlan:
    """Settings of the format stage, which turns records into conversations.

    Attributes:
        instruction: Text before passage and question; may be empty.
        split_seed: Seed of the split. Near-duplicates, and all questions about one passage, are
            in one split.
    """

    instruction: str = ""
    split_seed: int = 0


@dataclass(frozen=True)
class BatchPlan:
    """Settings of the batch stage, which groups rows of similar length.

    Attributes:
        size: Largest number of rows in a batch.
        window: Number of rows sorted by length at a time; memory grows with it.
    """

    size: int = 8
    window: int = 512


@dataclass(frozen=True)
class PipelinePlan:
    """Settings of all stages."""

    cleaning: CleaningPlan = field(default_factory=CleaningPlan)
    formatting: FormatPlan = field(default_factory=FormatPlan)
    batching: BatchPlan = field(default_factory=BatchPlan)


def default_plan(spec: DatasetSpec) -> PipelinePlan:
    """Return the default settings of a dataset; datasets with gold answers require one."""
    checks = ("readable", "answered") if spec.has_answers else ("readable",)
    return PipelinePlan(cleaning=CleaningPlan(checks=checks))


def run_pipeline(
    records: Iterable[Record], source: str, plan: PipelinePlan, folder: Path
) -> dict[str, Artifact]:
    """Run all stages; each stage reads the artifact of the previous one.

    Args:
        records: Records, read only if the raw stage has inputs left to process.
        source: Digest of the records' source.
        plan: Settings of the stages.
        folder: Folder of the artifacts.

    Returns:
        The artifacts by stage: ``raw``, ``clean``, ``format``, ``batch``.
    """
    code = code_digest(Path(__file__).parent)
    raw = run_stage(Stage("raw", code, {}, _raw_output), records, source, folder)
    cleaning = Stage("clean", code, asdict(plan.cleaning), _cleaning_function(plan.cleaning))
    cleaned = run_stage(cleaning, raw.load(), raw.sha256, folder)
    # The clusters follow from the cleaned rows, whose hash identifies the stage's input.
    formatting = Stage(
        "format",
        code,
        asdict(plan.formatting),
        _formatting_function(plan.formatting, lambda: _split_groups(cleaned.load())),
    )
    formatted = run_stage(formatting, cleaned.load(), cleaned.sha256, folder)
    batching = Stage("batch", code, asdict(plan.batching), _batching_function(plan.batching))
    windows = _row_windows(formatted.load(), plan.batching.window)
    batched = run_stage(batching, windows, formatted.sha256, folder)
    return {artifact.stage: artifact for artifact in (raw, cleaned, formatted, batched)}


def run_dataset(
    spec: DatasetSpec, folder: Path, plan: PipelinePlan | None = None
) -> dict[str, Artifact]:
    """Run the pipeline on a packaged dataset.

    Args:
        spec: Dataset specification.
        folder: Parent folder of the artifacts; they go to ``<folder>/<name of the dataset>``.
        plan: Settings of the stages; None uses ``default_plan``.

    Raises:
        DataNotFoundError: The package of the dataset is not installed.
        DataFormatError: A row lacks a field.
    """
    plan = plan or default_plan(spec)
    return run_pipeline(spec.read(), source_digest(spec), plan, folder / spec.name)


def source_digest(spec: DatasetSpec) -> str:
    """Return the SHA-256 of a dataset: of its file, or of the hashes of its files in order."""
    hashes = [package_file_digest(package_file(spec.package, name)) for name in spec.files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def format_prompt(instruction: str, passage: str, question: str) -> str:
    """Return the user message of instruction, passage and question; empty parts are left out."""
    parts = [instruction, f"Passage: {passage}" if passage else ""]
    parts.append(f"Question: {question}" if passage or instruction else question)
    return "\n\n".join(part for part in parts if part)


def _raw_output(record: Record, seen: set[str]) -> StageOutput:  # noqa: ARG001 - one shape for all stages
    return StageOutput((record.row(),))


def _cleaning_function(plan: CleaningPlan) -> Callable[[Row, set[str]], StageOutput]:
    def run(row: Row, seen: set[str]) -> StageOutput:
        result = clean_record(parse_record(row), plan, seen)
        rows = (result.record.row(),) if result.record else ()
        return StageOutput(rows, result.reason, result.dedup_key)

    return run


def _split_groups(rows: Iterable[Row]) -> dict[str, str]:
    """Return the group that draws the split of each record, by key.

    It is the passage, or the question without one, of the first record in the cluster's order: a
    record without near-duplicates is drawn by its own.
    """
    records = [parse_record(row) for row in rows]
    own = [record.passage or record.question for record in records]
    keys = [
        text_keys(*content_parts(record.passage), *content_parts(record.question))
        for record in records
    ]
    clusters = near_duplicate_clusters(keys, groups=own).tolist()
    first: dict[int, str] = {}
    for cluster, group in zip(clusters, own, strict=True):
        first[cluster] = min(group, first.get(cluster, group))
    return {record.key: first[cluster] for record, cluster in zip(records, clusters, strict=True)}


def _formatting_function(
    plan: FormatPlan, read_groups: Callable[[], dict[str, str]]
) -> Callable[[Row, set[str]], StageOutput]:
    groups: dict[str, str] = {}

    def run(row: Row, seen: set[str]) -> StageOutput:  # noqa: ARG001 - one shape for all stages
        if not groups:  # a finished stage is not run again, and needs none
            groups.update(read_groups())
        record = parse_record(row)
        prompt = format_prompt(plan.instruction, record.passage, record.question)
        group = groups[record.key]
        formatted = {
            "key": record.key,
            # Generated questions carry their split, because their passages come from that split.
            "split": record.labels.get("split", assign_split(group, plan.split_seed)),
            "cluster": record.labels.get("cluster", passage_cluster(group)),
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
            by_length = sorted(
                (row for row in window if row["split"] == split), key=_conversation_length
            )
            starts = range(0, len(by_length), plan.size)
            batches += [{"split": split, "rows": by_length[at : at + plan.size]} for at in starts]
        return StageOutput(tuple(batches))

    return run


def _conversation_length(row: Row) -> tuple[int, str]:
    return sum(len(turn["content"]) for turn in row["messages"]), row["key"]


def _row_windows(rows: Iterator[T], size: int) -> Iterator[list[T]]:
    while window := list(islice(rows, size)):
        yield window

"""Replies of all cells, kept in journals so that a killed run and several processes continue.

Each row is one reply: ``{system, key, reply, source}``. ``system`` is a digest of everything that
determines the reply. A shard answers every n-th item into a journal of its own; a run without a
shard reads the journals of all, and answers what is missing.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bem.backbone import Backbone, WeightFormat
from bem.digests import code_digest
from bem.errors import EvaluationError
from bem.journal import Journal

from bem_fleet.studies.compatibility.arms import Arm, Cell
from bem_fleet.studies.compatibility.learned_codes import learn_codes
from bem_fleet.studies.compatibility.mission_items import MissionItem
from bem_fleet.studies.compatibility.request_path import ExchangeGuard, Reply, RequestPath
from bem_fleet.studies.compatibility.seed_artifacts import ADAPTERS, SeedArtifacts
from bem_fleet.studies.compatibility.shared_engine import SharedEngine, open_shared_engine

_PACKAGE = Path(__file__).parent
_BATCH = 64


@dataclass(frozen=True)
class Shard:
    """Part of the items that a process answers.

    Attributes:
        place: Number of the part, from 0.
        count: Number of parts.
    """

    place: int = 0
    count: int = 1


class ReplyJournal:
    """Answers the items of cells for one training seed, each once.

    Args:
        seed: Artifacts of the training seed.
        folder: Folder of the journals and of what online learns.
        load: Loads the base model anew.
        guard: Filters of the sidecar of this seed.
        weights: Format of the frozen weights.
        shard: Part of the items that this process answers.
    """

    def __init__(
        self,
        seed: SeedArtifacts,
        folder: Path,
        load: Callable[[], Backbone],
        guard: Callable[[], ExchangeGuard],
        *,
        weights: WeightFormat = "fp32",
        shard: Shard | None = None,
    ) -> None:
        self.seed, self._folder, self._load, self._guard = seed, folder, load, guard
        self._weights, self._shard = weights, shard or Shard()
        part = f"{self._shard.place}-of-{self._shard.count}"
        self._journal = Journal(folder / f"replies-{part}.jsonl")
        self._known: dict[tuple[str, str], Reply] = {}
        for path in sorted(folder.glob("replies-*.jsonl")):
            for row in Journal(path).rows() if path != self._journal.path else self._journal.rows():
                self._known[row["system"], row["key"]] = Reply(row["reply"], row["source"])
        # Rows of other code are never read again: they have another digest.
        self._code = code_digest(_PACKAGE)
        self._opened: tuple[object, SharedEngine] | None = None
        self._filters: ExchangeGuard | None = None

    def answer(
        self,
        cells: Iterable[Cell],
        split: str,
        report: Callable[[str], None],
        keys: frozenset[str] | None = None,
    ) -> None:
        """Answer this process's part of what is missing; cells of one engine follow each other.

        Args:
            cells: Cells to answer.
            split: ``dev`` or ``held_out``.
            report: Called with a line for each cell.
            keys: Keys of the items that count; None for all.
        """
        order = sorted(dict.fromkeys(cells), key=lambda cell: str(cell.arm.parts(self.seed)))
        for cell in order:
            mine = cell.items(split, keys)[self._shard.place :: self._shard.count]
            system = self.system(cell.arm, split)
            missing = [one for one in mine if (system, one.key) not in self._known]
            if missing:
                self._answer(cell.arm, split, system, missing)
                report(f"seed {self.seed.seed}, {cell.arm.name}, {cell.mission}: {len(missing)}")

    def replies(self, cell: Cell, split: str, keys: frozenset[str] | None = None) -> list[Reply]:
        """Return the replies to a cell's items in their order.

        Raises:
            EvaluationError: A reply is missing.
        """
        system = self.system(cell.arm, split)
        items = cell.items(split, keys)
        missing = sum((system, one.key) not in self._known for one in items)
        if missing:
            raise EvaluationError(
                f"replies: {missing} of {cell.arm.name} on {cell.mission}'s set are missing; run "
                "the command again without --shard"
            )
        return [self._known[system, one.key] for one in items]

    def system(self, arm: Arm, split: str) -> str:
        """Return a digest of what determines an arm's replies, hexadecimal."""
        acting = arm.effective(self.seed).missions
        used = {*ADAPTERS, *(self.seed.path(one).name for one in acting)}
        used |= {"guard"} if "safety" in acting else set()
        versions = {name: one for name, one in self.seed.versions().items() if name in used}
        learned = [split, self.seed.seed] if "online" in acting else []
        parts = [acting, versions, self._weights, learned, self._code]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def close(self) -> None:
        """End the engine that is open, if any."""
        if self._opened:
            self._opened[1].close()
            self._opened = None

    def path(self, arm: Arm, split: str) -> RequestPath:
        """Return the path of an arm; the engine of another arm may end."""
        wanted = (arm.parts(self.seed), split)
        if self._opened is None or self._opened[0] != wanted:
            self.close()
            self._opened = (wanted, self.open_engine(arm, split))
        return self.path_on(self._opened[1], arm)

    def path_on(self, shared: SharedEngine, arm: Arm) -> RequestPath:
        """Return the path of an arm on an engine with its parts."""
        if self._filters is None and "safety" in arm.missions:
            self._filters = self._guard()
        return RequestPath(shared, frozenset(arm.missions), self._filters)

    def open_engine(self, arm: Arm, split: str) -> SharedEngine:
        """Return a started engine for an arm, which the caller closes."""
        codes = None
        if self.seed.has("online"):
            codes = learn_codes(self._load(), self.seed, split, self._folder)
        parts = arm.parts(self.seed)
        return open_shared_engine(
            self._load(), self.seed, parts, codes=codes, weights=self._weights
        )

    def _answer(self, arm: Arm, split: str, system: str, missing: Sequence[MissionItem]) -> None:
        path = self.path(arm, split)
        for begin in range(0, len(missing), _BATCH):
            batch = missing[begin : begin + _BATCH]
            for item, reply in zip(batch, path.replies(batch), strict=True):
                self._known[system, item.key] = reply
                row = {"key": item.key, "reply": reply.text, "source": reply.source}
                self._journal.add({"system": system, **row})

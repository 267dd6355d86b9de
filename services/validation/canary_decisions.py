"""Final decisions of canary gates in Redis, beside the observations that they rest on.

A final decision must stay, although its pairs are deleted in time and the code that judged them may
be replaced. Each is a field of the hash ``bem:canary:<id>:decisions``, named after the gate and the
digest of its terms, because other terms are another analysis.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from typing import Any

from bem_fleet.services.validation.canary_observations import CanaryObservations
from bem_fleet.stats.canary_gate import CanaryDecision, CanaryVerdict, MetricEvidence
from bem_fleet.stats.canary_terms import AnalysisTerms


class StoredDecisions:
    """Decisions on one canary under one set of terms.

    Args:
        observations: Redis of the canary.
        canary_id: Id of the canary.
        terms: Terms of the analysis.
        with_quality: Whether probes share the alpha.
    """

    def __init__(
        self,
        observations: CanaryObservations,
        canary_id: str,
        terms: AnalysisTerms,
        *,
        with_quality: bool,
    ) -> None:
        content = json.dumps({**asdict(terms), "with_quality": with_quality}, sort_keys=True)
        self._digest = sha256(content.encode()).hexdigest()[:16]
        self._observations, self._canary_id = observations, canary_id

    async def read(self, gates: Sequence[str]) -> dict[str, CanaryDecision]:
        """Return the stored decisions by gate.

        Raises:
            UnavailableError: Redis does not respond.
        """
        found = {}
        for gate in gates:
            text = await self._observations.read_decision(self._canary_id, self._field(gate))
            if text is not None:
                found[gate] = _decode(json.loads(text))
        return found

    async def write(self, gate: str, decision: CanaryDecision) -> None:
        """Store the final decision of a gate.

        Raises:
            UnavailableError: Redis does not respond.
        """
        await self._observations.write_decision(
            self._canary_id, self._field(gate), json.dumps(asdict(decision))
        )

    def _field(self, gate: str) -> str:
        return f"{gate}:{self._digest}"


def _decode(content: Mapping[str, Any]) -> CanaryDecision:
    evidence = {name: MetricEvidence(**one) for name, one in content["evidence"].items()}
    verdict = CanaryVerdict(content["verdict"])
    return CanaryDecision(verdict, content["items"], tuple(content["reasons"]), evidence)

"""Drift monitors of a served stream: ADWIN and Page-Hinkley of the library river.

ADWIN (Bifet and Gavalda 2007) watches the mean of a metric in a window that it adapts;
Page-Hinkley (Page 1954) sums deviations from the mean. river's default threshold of 50 is meant
for values of unit scale, so values are divided by the metric's own scale first. Detectors have no
state that can be stored; a monitor keeps its latest values and is restored by observing them again.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from river.drift import ADWIN, PageHinkley

from bem.errors import InvalidSettingError


@dataclass(frozen=True)
class DriftSettings:
    """Settings of the monitor of one metric.

    Attributes:
        scale: Typical deviation of the metric, by which its values are divided; above 0.
        adwin_delta: Significance of ADWIN, in (0, 1).
        clock: Observations between two checks of ADWIN, at least 1.
        min_instances: Observations before Page-Hinkley may alarm, at least 1.
        tolerance: Deviation that Page-Hinkley ignores, in scales.
        threshold: Sum of deviations at which Page-Hinkley alarms, in scales; above 0.
        kept: Latest values that a restored monitor observes again, at least 1.

    Raises:
        InvalidSettingError: A setting is out of its range.
    """

    scale: float = 1.0
    adwin_delta: float = 0.002
    clock: int = 32
    min_instances: int = 30
    tolerance: float = 0.005
    threshold: float = 50.0
    kept: int = 4096

    def __post_init__(self) -> None:
        positive = min(self.scale, self.threshold) > 0 and math.isfinite(self.scale)
        counts = min(self.clock, self.min_instances, self.kept) >= 1
        if not positive or not counts or not 0 < self.adwin_delta < 1 or self.tolerance < 0:
            raise InvalidSettingError(
                "drift: scale and threshold are above 0, adwin_delta lies in (0, 1), clock, "
                f"min_instances and kept are at least 1, tolerance at least 0; got {self}"
            )


@dataclass(frozen=True)
class DriftSignal:
    """What the detectors say about one observation.

    Attributes:
        adwin: Whether ADWIN found that the mean changed.
        page_hinkley: Whether Page-Hinkley found that the mean changed.
        mean: Mean of ADWIN's window, in the metric's unit.
    """

    adwin: bool
    page_hinkley: bool
    mean: float

    @property
    def drifted(self) -> bool:
        """Whether any detector alarms."""
        return self.adwin or self.page_hinkley


class DriftMonitor:
    """Watches one metric of a stream, for example the log-likelihood of each request.

    Args:
        settings: Settings of the monitor.
    """

    def __init__(self, settings: DriftSettings | None = None) -> None:
        self.settings = settings or DriftSettings()
        self._adwin = ADWIN(delta=self.settings.adwin_delta, clock=self.settings.clock)
        self._page_hinkley = PageHinkley(
            min_instances=self.settings.min_instances,
            delta=self.settings.tolerance,
            threshold=self.settings.threshold,
        )
        self._values: deque[float] = deque(maxlen=self.settings.kept)

    def observe(self, value: float) -> DriftSignal:
        """Observe the metric once.

        A detector that alarms forgets what it saw and begins anew.

        Args:
            value: Finite value of the metric.

        Raises:
            InvalidSettingError: The value is not finite.
        """
        if not math.isfinite(value):
            raise InvalidSettingError(
                f"drift: the value {value} is not finite; count such requests as failed instead"
            )
        self._values.append(value)
        scaled = value / self.settings.scale
        self._adwin.update(scaled)
        self._page_hinkley.update(scaled)
        return DriftSignal(
            adwin=bool(self._adwin.drift_detected),
            page_hinkley=bool(self._page_hinkley.drift_detected),
            mean=float(self._adwin.estimation) * self.settings.scale,
        )

    def values(self) -> list[float]:
        """Return the latest values, oldest first, for ``restore``."""
        return list(self._values)

    @classmethod
    def restore(
        cls, values: Iterable[float], settings: DriftSettings | None = None
    ) -> "DriftMonitor":
        """Return a monitor that has observed values, the alarms of which are dropped.

        Args:
            values: Latest values of the stored monitor, oldest first.
            settings: Settings of the monitor.
        """
        monitor = cls(settings)
        for value in values:
            monitor.observe(value)
        return monitor

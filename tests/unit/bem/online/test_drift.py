"""Tests of the drift monitors."""

import random

import pytest
from bem.errors import InvalidSettingError
from bem.online.drift import DriftMonitor, DriftSettings, DriftSignal
from river.drift import ADWIN, PageHinkley


def stream(mean: float, count: int, *, seed: int = 0, deviation: float = 1.0) -> list[float]:
    """Return normal values."""
    draw = random.Random(seed)
    return [draw.gauss(mean, deviation) for _ in range(count)]


def alarms(monitor: DriftMonitor, values: list[float]) -> list[DriftSignal]:
    """Observe values and return the signals that alarm."""
    return [signal for value in values if (signal := monitor.observe(value)).drifted]


def test_steady_stream_raises_no_alarm_and_a_shift_does() -> None:
    """Both detectors see a fall of two deviations, and nothing in 1,000 values before it."""
    monitor = DriftMonitor()

    assert alarms(monitor, stream(0.0, 1000)) == []
    signals = [monitor.observe(value) for value in stream(-2.0, 200, seed=1)]
    assert any(one.adwin for one in signals)
    assert any(one.page_hinkley for one in signals)
    assert signals[-1].mean == pytest.approx(-2.0, abs=0.5)


def test_detectors_are_rivers() -> None:
    """Each alarm comes at the observation at which river's own detector has it."""
    monitor, adwin, page_hinkley = DriftMonitor(), ADWIN(), PageHinkley()  # type: ignore[no-untyped-call]
    for value in [*stream(0.0, 300), *stream(3.0, 300, seed=2), *stream(1.0, 300, seed=3)]:
        signal = monitor.observe(value)
        adwin.update(value)  # type: ignore[no-untyped-call]
        page_hinkley.update(value)  # type: ignore[no-untyped-call]
        assert signal.adwin == adwin.drift_detected
        assert signal.page_hinkley == page_hinkley.drift_detected


def test_scale_makes_a_metric_of_another_unit_the_same_stream() -> None:
    """Page-Hinkley alarms at the same observation for values in thousandths."""
    unit = [*stream(0.0, 200), *stream(4.0, 100, seed=4)]
    small = DriftMonitor(DriftSettings(scale=0.001))
    plain = DriftMonitor()
    found = [
        (small.observe(value / 1000).page_hinkley, plain.observe(value).page_hinkley)
        for value in unit
    ]

    assert (True, True) in found
    assert all(one == other for one, other in found)


def test_restored_monitor_goes_on_as_the_first_one() -> None:
    """After the same values, the next alarms are at the same observations."""
    first = DriftMonitor()
    for value in stream(0.0, 500):
        first.observe(value)
    second = DriftMonitor.restore(first.values())
    later = stream(3.0, 100, seed=5)

    assert [first.observe(value) for value in later] == [second.observe(value) for value in later]


def test_kept_values_are_bounded() -> None:
    """A monitor holds no more values than its settings say."""
    monitor = DriftMonitor(DriftSettings(kept=5))
    for value in range(10):
        monitor.observe(float(value))

    assert monitor.values() == [5, 6, 7, 8, 9]


def test_values_and_settings_out_of_range_are_refused() -> None:
    """A NaN is no observation, and a scale of 0 no scale."""
    with pytest.raises(InvalidSettingError, match="nan is not finite"):
        DriftMonitor().observe(float("nan"))
    with pytest.raises(InvalidSettingError, match="scale and threshold"):
        DriftSettings(scale=0)

"""Figures of the GPU that computes a model, read from NVIDIA's management library at each scrape.

The library (NVML) comes with the driver. Where it is missing, or does not know the device, the
figures are absent and ``bem_gpu_metrics_available`` is 0; a figure that a device does not have, as
the utilisation of a MIG slice, is absent alone.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pynvml
from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from fleet import logs

_LOG = logs.get("gpu_metrics")

AVAILABLE = ("bem_gpu_metrics_available", "1 if NVML answers for the device.")
FIGURES: tuple[tuple[str, str, Callable[[Any], float]], ...] = (
    (
        "bem_gpu_utilization_ratio",
        "Share of the device's last sample period in which a kernel ran.",
        lambda handle: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
    ),
    (
        "bem_gpu_memory_used_bytes",
        "Memory of the device in use, by all processes.",
        lambda handle: pynvml.nvmlDeviceGetMemoryInfo(handle).used,
    ),
    (
        "bem_gpu_memory_bytes",
        "Memory of the device.",
        lambda handle: pynvml.nvmlDeviceGetMemoryInfo(handle).total,
    ),
    (
        "bem_gpu_temperature_celsius",
        "Temperature of the device.",
        lambda handle: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
    ),
    (
        "bem_gpu_power_watts",
        "Power that the device draws.",
        lambda handle: pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,
    ),
)


class GpuCollector(Collector):
    """Reads the figures of one device.

    Args:
        uuid: Name of the device in NVML, ``GPU-`` and its UUID.
    """

    def __init__(self, uuid: str) -> None:
        self._uuid = uuid
        self._is_open, self._problem = False, ""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the figures that the device has, and whether it could be asked."""
        figures, problem = [], ""
        try:
            if not self._is_open:  # also after a failure: a driver may come back
                pynvml.nvmlInit()
                self._is_open = True
            figures = list(self._figures(pynvml.nvmlDeviceGetHandleByUUID(self._uuid)))
        except pynvml.NVMLError as err:
            self._is_open, problem = False, str(err)
        self._report(problem)
        yield from figures
        available = GaugeMetricFamily(*AVAILABLE, labels=["gpu"])
        available.add_metric([self._uuid], 0 if problem else 1)
        yield available

    def _figures(self, handle: Any) -> Iterator[GaugeMetricFamily]:
        for name, documentation, read in FIGURES:
            family = GaugeMetricFamily(name, documentation, labels=["gpu"])
            try:
                family.add_metric([self._uuid], read(handle))
            except pynvml.NVMLError_NotSupported:
                continue
            yield family

    def _report(self, problem: str) -> None:
        if problem and problem != self._problem:
            _LOG.warning("no figures of the GPU", gpu=self._uuid, reason=problem)
        self._problem = problem


def register_gpu(uuid: str) -> None:
    """Export the figures of a device on this process's metrics page.

    Args:
        uuid: UUID of the device as CUDA has it, without the prefix ``GPU-``.
    """
    REGISTRY.register(GpuCollector(f"GPU-{uuid}"))

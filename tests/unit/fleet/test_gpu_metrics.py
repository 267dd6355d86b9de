"""Figures of a GPU: NVIDIA's own binding, over a compiled library with NVML's interface."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.requirements import require

UUID = "GPU-1f2d3c4b-0000-0000-0000-000000000001"
LIBRARY = """
#include <stdlib.h>
#include <string.h>
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned int gpu, memory; } Rates;
const char *nvmlErrorString(int code) { return code == 6 ? "Not Found" : "GPU is lost"; }
int nvmlInitWithFlags(unsigned int flags) { return 0; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
  *device = (void *)1;
  return strcmp(uuid, "GPU-1f2d3c4b-0000-0000-0000-000000000001") ? 6 : 0;
}
int nvmlDeviceGetUtilizationRates(void *device, Rates *rates) {
  rates->gpu = 40;
  return getenv("IS_SLICE") ? 3 : 0;
}
int nvmlDeviceGetMemoryInfo(void *device, Memory *memory) {
  memory->total = 1000; memory->free = 400; memory->used = 600;
  return 0;
}
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned int *celsius) {
  *celsius = 55;
  return getenv("IS_LOST") ? 15 : 0;
}
int nvmlDeviceGetPowerUsage(void *device, unsigned int *milliwatts) {
  *milliwatts = 71500;
  return 0;
}
"""
SCRAPE = """
import sys
from fleet.gpu_metrics import GpuCollector
from prometheus_client import CollectorRegistry, generate_latest
registry = CollectorRegistry()
registry.register(GpuCollector(sys.argv[1]))
generate_latest(registry)
sys.stderr.write(generate_latest(registry).decode())
"""
FULL = {
    "bem_gpu_metrics_available": 1.0,
    "bem_gpu_utilization_ratio": 0.4,
    "bem_gpu_memory_used_bytes": 600.0,
    "bem_gpu_memory_bytes": 1000.0,
    "bem_gpu_temperature_celsius": 55.0,
    "bem_gpu_power_watts": 71.5,
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the library."""
    folder = tmp_path_factory.mktemp("nvml")
    (folder / "nvml.c").write_text(LIBRARY)
    compiler = shutil.which("cc") or require("g++")
    command = [compiler, "-x", "c", "-shared", "-fPIC", "-o"]
    subprocess.run([*command, folder / "libnvidia-ml.so.1", folder / "nvml.c"], check=True)
    return folder


def scrape(folder: Path | None, uuid: str = UUID, **variables: str) -> tuple[dict[str, float], str]:
    """Return the figures of the second scrape of a process, and its log."""
    environment = os.environ | variables
    if folder:
        environment |= {"LD_LIBRARY_PATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", SCRAPE, uuid],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    families = text_string_to_metric_families(done.stderr)
    samples = [sample for family in families for sample in family.samples]
    assert {sample.labels["gpu"] for sample in samples} == {uuid}
    return {sample.name: sample.value for sample in samples}, done.stdout


@pytest.mark.slow
def test_figures_have_the_units_of_their_names(library: Path) -> None:
    """NVML has percent and milliwatts; the metrics have shares and watts."""
    found, _ = scrape(library)

    assert found == FULL


@pytest.mark.slow
def test_a_figure_that_a_device_lacks_is_absent_alone(library: Path) -> None:
    """A MIG slice has no utilisation of its own."""
    found, _ = scrape(library, IS_SLICE="1")

    assert found == {
        name: value for name, value in FULL.items() if name != "bem_gpu_utilization_ratio"
    }


@pytest.mark.slow
def test_a_source_that_fails_says_so(library: Path) -> None:
    """Without a driver, for a device that it does not know, or has lost: logged once."""
    lost = {"IS_LOST": "1"}
    for folder, uuid, variables, reason in (
        (None, UUID, {}, "Not Found"),
        (library, "GPU-other", {}, "Not Found"),
        (library, UUID, lost, "GPU is lost"),
    ):
        found, log = scrape(folder, uuid, **variables)

        assert found == {"bem_gpu_metrics_available": 0.0}
        assert log.count("no figures of the GPU") == 1
        assert reason in log

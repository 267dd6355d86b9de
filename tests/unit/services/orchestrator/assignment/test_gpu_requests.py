"""GPU requests and what may go wrong with them."""

from bem_fleet.services.orchestrator.assignment.gpu_requests import GpuRequest, UnmetReason


def test_products_are_ranked_as_they_are_named() -> None:
    """The first name that is part of the label decides, in any case; no names take any product."""
    wishes = GpuRequest("ns/m/primary", "m", products=("a100", "H100"))

    assert wishes.product_rank("NVIDIA-A100-SXM4-40GB") == 0
    assert wishes.product_rank("NVIDIA-H100-80GB-HBM3") == 1
    assert wishes.product_rank("NVIDIA-L4") is None
    assert GpuRequest("k", "m").product_rank("NVIDIA-L4") == 0
    assert wishes.name == "primary"


def test_conflicts_are_what_others_have_or_nobody_has() -> None:
    """A cluster that is too small is no conflict; a GPU that is taken or does not exist is."""
    conflicts = {reason for reason in UnmetReason if reason.is_conflict}

    assert conflicts == {
        UnmetReason.DEVICE_MISSING,
        UnmetReason.DEVICE_TAKEN,
        UnmetReason.OVERBOOKED,
    }

"""Helm values that pin images to digests."""

from pathlib import Path

import pytest
import yaml

from docker.digests import DigestError, main, pinned_values
from docker.images import images

DIGEST = "sha256:" + "0a" * 32


def test_every_image_is_pinned_where_the_chart_reads_it() -> None:
    """Each image of the fleet gets its digest at a value that the chart has."""
    chart = yaml.safe_load((Path(__file__).parents[3] / "charts/values.yaml").read_text())
    names = [image.name for image in images()]

    values = pinned_values(dict.fromkeys(names, DIGEST))

    assert values["redis"] == values["safetySidecar"] == {"image": {"digest": DIGEST}}
    assert {"digest"} <= set(chart["redis"]["image"]) & set(chart["safetySidecar"]["image"])
    assert set(values["services"]) == set(names) - {"redis", "safety"} == set(chart["services"])


def test_other_text_is_no_digest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The image is named; other files of the folder, such as the values, are not read."""
    (tmp_path / "router").write_text(f"{DIGEST}\n")
    (tmp_path / "digests.yaml").write_text("{}")
    main(tmp_path)
    assert yaml.safe_load(capsys.readouterr().out) == {
        "services": {"router": {"image": {"digest": DIGEST}}}
    }

    (tmp_path / "router").write_text("latest")
    with pytest.raises(DigestError, match="router: 'latest' is no digest"):
        main(tmp_path)

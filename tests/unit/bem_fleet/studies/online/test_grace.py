"""GRACE on the tiny model."""

import pytest
import torch
from bem.testing import tiny_backbone
from bem_fleet.studies.online.correction_stream import Correction
from bem_fleet.studies.online.correction_systems import StudyEngine
from bem_fleet.studies.online.grace import Grace, GraceSettings, KeyKind

from tests.support.online_bank import online_card

PROMPTS = ["aaaa bbbb", "cccc dddd", "eeee ffff"]
OTHER = "zzzzzzzz qqqqqq zzzzz"


def taught(key: KeyKind, radius: float = 0.3) -> Grace:
    """Return a codebook of three edits."""
    settings = GraceSettings(key, layers_below_top=1, radius=radius)
    made = Grace(tiny_backbone(), settings)
    made.learn([Correction("f", "u", one, f"r{at}") for at, one in enumerate(PROMPTS)])
    return made


@pytest.mark.slow
@pytest.mark.parametrize("key", ["last token", "sentence"])
def test_edited_prompts_change_and_others_do_not(key: KeyKind, tmp_path) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """The base model's own greedy answer is kept outside of the radii."""
    made = taught(key)
    engine = StudyEngine(tiny_backbone(), online_card(), tmp_path)
    engine.start()
    try:
        base = engine.texts([*PROMPTS, OTHER])
    finally:
        engine.close()
    edited = made.answers([*PROMPTS, OTHER])

    assert len(made.entries) == 3
    assert edited[-1] == base[-1]
    assert all(a != b for a, b in zip(edited[:-1], base[:-1], strict=True))


def test_radii_grow_over_the_same_reply_and_split_between_others() -> None:
    """A covered key with the same reply widens its ball; with another one both end half way."""
    made = taught("sentence", radius=1.5)
    first = made.entries[0]
    before, count = first.radius, len(made.entries)
    made.learn([Correction("f", "u", PROMPTS[0], first.reply)])
    widened = first.radius
    made.learn([Correction("f", "u", "aaaa bbbc", "other")])

    assert len(made.entries) == count + 1
    assert widened >= before
    away = float(torch.linalg.vector_norm(made.entries[-1].key - first.key))
    assert made.entries[-1].radius == pytest.approx(away / 2) or first.radius == widened

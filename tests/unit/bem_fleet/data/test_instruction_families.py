"""Tests of the families of instructions."""

from itertools import combinations
from pathlib import Path

import pytest
from bem.errors import DataFormatError
from bem_fleet.data.held_out import HeldOutClosedError, final_evaluation
from bem_fleet.data.instruction_families import (
    KINDS,
    FamilyPart,
    InstructionFamily,
    family_items,
    instruction_families,
    items_digest,
)


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[InstructionFamily, ...]]:
    """Return the families of all splits, opened for a register of the tests."""
    register: Path = tmp_path_factory.mktemp("register") / "openings.json"
    with final_evaluation("test", register):
        return {split: instruction_families(split) for split in ("train", "dev", "held_out")}


def test_splits_have_their_families(families: dict[str, tuple[InstructionFamily, ...]]) -> None:
    """24 families train, 6 choose, 3 are held out, one of each kind; no name repeats."""
    assert {split: len(own) for split, own in families.items()} == {
        "train": 24,
        "dev": 6,
        "held_out": 3,
    }
    assert {one.kind for one in families["held_out"]} == set(KINDS)
    names = [one.name for own in families.values() for one in own]
    assert len(set(names)) == 33


def test_held_out_families_are_closed() -> None:
    """Training code cannot read the families of the gate."""
    with pytest.raises(HeldOutClosedError, match="instruction-families"):
        instruction_families("held_out")
    with pytest.raises(DataFormatError, match="'test' is unknown"):
        instruction_families("test")


def test_no_convention_is_used_twice(families: dict[str, tuple[InstructionFamily, ...]]) -> None:
    """Two families of a kind answer in different forms: words masked, no two replies are equal."""
    for kind in KINDS:
        forms: dict[str, set[str]] = {}
        for family in [one for own in families.values() for one in own if one.kind == kind]:
            slots = [value for values in family.domain.slots.values() for value in values]
            words = sorted(
                [*slots, *family.domain.slots, family.domain.tool], key=len, reverse=True
            )
            forms[family.name] = set()
            for item in family_items(family, "stream", 40):
                form = item.wanted.lower() if kind != "labels" else item.wanted
                for word in words if kind != "labels" else ():
                    form = form.replace(word.lower(), "_")
                forms[family.name].add(form)
        for one, other in combinations(forms, 2):
            assert not forms[one] & forms[other], (one, other)


@pytest.mark.parametrize("part", ["stream", "probe"])
def test_items_are_distinct_and_repeat_by_seed(
    families: dict[str, tuple[InstructionFamily, ...]], part: FamilyPart
) -> None:
    """Each family has 200 distinct items of a part, the same ones for the same seed."""
    for family in families["train"][:3]:
        items = family_items(family, part, 200)

        assert len({one.request for one in items}) == 200
        assert items == family_items(family, part, 200)
        assert items_digest(items) != items_digest(family_items(family, part, 200, seed=1))


def test_probes_have_no_wording_of_the_stream(
    families: dict[str, tuple[InstructionFamily, ...]],
) -> None:
    """No template of a probe is one of the stream, and there are more than 200 probe templates."""
    for family in families["dev"]:
        stream = {one.template for one in family_items(family, "stream", 250)}
        probes = {one.template for one in family_items(family, "probe", 250)}
        assert not stream & probes
    templates = {
        one.template
        for seed in range(8)
        for one in family_items(families["dev"][0], "probe", 200, seed)
    }
    assert len(templates) >= 200


def test_same_slots_give_the_same_reply(families: dict[str, tuple[InstructionFamily, ...]]) -> None:
    """A reply of a record holds every slot of its request, in stream and probe."""
    for family in families["train"]:
        if family.kind == "labels":
            continue
        for part in ("stream", "probe"):
            for item in family_items(family, part, 20):
                for values in family.domain.slots.values():
                    assert any(
                        value in item.request and value.lower() in item.wanted.lower()
                        for value in values
                    ), item


def test_more_items_than_there_are_is_an_error() -> None:
    """A family is not infinite."""
    with pytest.raises(DataFormatError, match="fewer than 2000"):
        family_items(instruction_families("train")[2], "stream", 2000)

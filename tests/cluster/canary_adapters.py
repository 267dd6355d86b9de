"""Adapters for canary tests: a copy of a trained adapter, and one with random output factors."""

from dataclasses import replace
from pathlib import Path

import torch
from bem.adapters.artifact import TENSORS_FILE, read_adapter_card, save_adapter
from safetensors.torch import load_file

CAPITALS = (
    ("Austria", "Vienna"),
    ("Belgium", "Brussels"),
    ("Bolivia", "Sucre"),
    ("Bulgaria", "Sofia"),
    ("Canada", "Ottawa"),
    ("Chile", "Santiago"),
    ("China", "Beijing"),
    ("Cuba", "Havana"),
    ("Denmark", "Copenhagen"),
    ("Egypt", "Cairo"),
    ("England", "London"),
    ("Estonia", "Tallinn"),
    ("Finland", "Helsinki"),
    ("France", "Paris"),
    ("Germany", "Berlin"),
    ("Ghana", "Accra"),
    ("Greece", "Athens"),
    ("Hungary", "Budapest"),
    ("Iceland", "Reykjavik"),
    ("Iran", "Tehran"),
    ("Iraq", "Baghdad"),
    ("Ireland", "Dublin"),
    ("Italy", "Rome"),
    ("Jamaica", "Kingston"),
    ("Japan", "Tokyo"),
    ("Kenya", "Nairobi"),
    ("Latvia", "Riga"),
    ("Lebanon", "Beirut"),
    ("Libya", "Tripoli"),
    ("Malta", "Valletta"),
    ("Nepal", "Kathmandu"),
    ("Norway", "Oslo"),
    ("Peru", "Lima"),
    ("Poland", "Warsaw"),
    ("Portugal", "Lisbon"),
    ("Russia", "Moscow"),
    ("Serbia", "Belgrade"),
    ("Spain", "Madrid"),
    ("Sweden", "Stockholm"),
    ("Turkey", "Ankara"),
)


def capital_prompt(country: str, city: str) -> str:
    """Return a prompt in the form that the passage-qa adapter was trained on."""
    return (
        "Answer the question from the passage. Reply with JSON only, in the form "
        '{"answer": "<the shortest words of the passage that answer it>"}.\n\n'
        f"Passage: The parliament of {country} meets in {city}.\n\n"
        f"Question: Where does the parliament of {country} meet?"
    )


def write_canary_adapters(adapter: Path, into: Path) -> None:
    """Write ``<name>-v2``, a copy, and ``<name>-bad``, whose output factors are noise."""
    card = read_adapter_card(adapter)
    tensors = load_file(adapter / TENSORS_FILE)
    save_adapter(into / f"{card.name}-v2", replace(card, name=f"{card.name}-v2"), tensors)
    noise = torch.Generator().manual_seed(0)
    for name, tensor in tensors.items():
        if name.endswith(".B"):
            random = torch.randn(tensor.shape, generator=noise) * tensor.float().norm()
            tensors[name] = random.to(tensor.dtype)
    save_adapter(into / f"{card.name}-bad", replace(card, name=f"{card.name}-bad"), tensors)

"""The character model is causal, equivariant by random embeddings, and thawed in order."""

import pytest
import torch
from bem.errors import InvalidSettingError
from bem.sep.bijection_draws import draw_symbol_permutations
from bem.sep.bijections import invert_permutations
from bem.sep.character_model import CharacterModel, CharacterModelConfig, ResidualFilm

CONFIG = CharacterModelConfig(alphabet=7, width=16, layers=3, heads=2, code_layer=2)


def build() -> tuple[CharacterModel, torch.Tensor]:
    """Return a random model with ids ``[2, 12]``."""
    torch.manual_seed(0)
    return CharacterModel(CONFIG).eval(), torch.randint(7, (2, 12))


def test_predictions_do_not_see_what_follows() -> None:
    """Another last character changes the last prediction only."""
    model, ids = build()
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 7
    before, after = model(ids), model(changed)

    torch.testing.assert_close(before.logits[:, :-1], after.logits[:, :-1])
    assert not torch.allclose(before.logits[:, -1], after.logits[:, -1])
    assert before.states.shape == (2, 12, 16)
    torch.testing.assert_close(before.codes, before.states.mean(1))


def test_permuted_symbols_and_embeddings_give_permuted_predictions() -> None:
    """f(P x) = P f(x) and z(P x) = z(x) where the embeddings go along."""
    model, ids = build()
    generator = torch.Generator().manual_seed(3)
    embeddings = model.draw_embeddings(2, 1.0, generator)
    cipher = draw_symbol_permutations(2, 7, generator)
    assert embeddings is not None
    assert cipher.symbols is not None
    sources = invert_permutations(cipher.symbols).unsqueeze(-1).expand(-1, -1, 16)
    clean = model(ids, embeddings=embeddings)
    ciphered = model(cipher(ids), embeddings=embeddings.gather(1, sources))

    torch.testing.assert_close(ciphered.logits, cipher.scramble_logits(clean.logits))
    torch.testing.assert_close(ciphered.codes, clean.codes)


def test_only_differences_of_positions_matter() -> None:
    """An offset of all positions changes nothing; other gaps do."""
    model, ids = build()
    places = torch.arange(12)

    torch.testing.assert_close(model(ids, positions=places + 100).logits, model(ids).logits)
    assert not torch.allclose(model(ids, positions=2 * places).logits, model(ids).logits)


def test_random_embeddings_are_for_a_share_of_rows() -> None:
    """None for no row, all rows, or some; the others have the learned ones."""
    model, _ = build()
    mixed = model.draw_embeddings(200, 0.5, torch.Generator().manual_seed(0))

    assert model.draw_embeddings(4, 0.0, torch.Generator()) is None
    assert mixed is not None
    learned = (mixed == model.embedding).flatten(1).all(1)
    assert 70 < int(learned.sum()) < 130


def test_groups_thaw_from_the_front_upwards_and_are_complete() -> None:
    """The front has FiLM and its blocks; embeddings and norm come last; each name is once there."""
    model, _ = build()
    groups = model.parameter_groups(2)

    assert len(groups) == 3
    assert {name.split(".")[0] for name in groups[0]} == {"film", "blocks"}
    assert all(name.startswith("blocks.2.") for name in groups[1])
    assert set(groups[2]) == {"embedding", "norm.weight"}
    names = sorted(name for group in groups for name in group)
    assert names == sorted(dict(model.named_parameters()))
    assert model.parameter_groups(0) == [list(dict(model.named_parameters()))]


def test_film_starts_as_identity_and_is_clamped() -> None:
    """Gain and shift act within one half."""
    film, x = ResidualFilm(2), torch.tensor([[2.0, -4.0]])
    assert torch.equal(film(x), x)
    with torch.no_grad():
        film.gain.fill_(9.0)
        film.shift.fill_(-9.0)

    assert film(x).tolist() == [[2.5, -6.5]]


@pytest.mark.parametrize(
    ("sizes", "problem"),
    [
        ({"width": 18}, "width: 18; a multiple of 8"),
        ({"code_layer": 7}, r"code_layer: 7; .*\[1, 6\]"),
    ],
)
def test_impossible_sizes_are_refused(sizes: dict[str, int], problem: str) -> None:
    """The error names the limit."""
    with pytest.raises(InvalidSettingError, match=problem):
        CharacterModelConfig(**sizes)

"""Orders of replies are a group that acts on questions, and the right reply stays right."""

import numpy as np
import pytest
from bem.errors import InvalidSettingError
from bem_fleet.data.multiple_choice import make_question
from bem_fleet.data.scrambles.option_order import OptionOrder, draw_option_order
from hypothesis import given
from hypothesis import strategies as st

QUESTION = make_question("made", "Which ship?", "A. red\nB. blue\nC. green\nD. grey", "C. green")
ORDERS = st.permutations(range(4)).map(lambda places: OptionOrder(tuple(places)))


@given(ORDERS, ORDERS)
def test_orders_are_a_group_that_acts_on_questions(first: OptionOrder, second: OptionOrder) -> None:
    """Composition is application in turn, inverses restore, and the right reply goes along."""
    moved = first(QUESTION)

    assert first.then(second)(QUESTION) == second(moved)
    assert first.inverse()(moved) == QUESTION
    assert first.then(first.inverse()).places == (0, 1, 2, 3)
    assert moved.options[moved.right] == "green"
    assert sorted(moved.options) == sorted(QUESTION.options)
    assert (moved.key, moved.cluster) == (QUESTION.key, QUESTION.cluster)


def test_every_other_order_is_drawn() -> None:
    """Five of the six orders of three replies, and equal seeds draw equal orders."""
    drawn = {draw_option_order(3, np.random.default_rng(seed)).places for seed in range(100)}

    assert len(drawn) == 5
    assert (0, 1, 2) not in drawn
    assert draw_option_order(9, np.random.default_rng(1)) == draw_option_order(
        9, np.random.default_rng(1)
    )


def test_orders_that_do_not_fit_are_refused() -> None:
    """Places, numbers of replies and single replies are named."""
    with pytest.raises(InvalidSettingError, match="no permutation"):
        OptionOrder((0, 0))
    with pytest.raises(InvalidSettingError, match="has 4 replies"):
        OptionOrder((1, 0))(QUESTION)
    with pytest.raises(InvalidSettingError, match="1 replies; at least 2"):
        draw_option_order(1, np.random.default_rng(0))

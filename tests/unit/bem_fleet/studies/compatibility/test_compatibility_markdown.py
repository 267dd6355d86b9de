"""Page of the compatibility study."""

from bem_fleet.studies.compatibility.compatibility_markdown import markdown

ROW = {
    "together": 0.5,
    "alone": 0.75,
    "difference": -0.25,
    "ci_low": -0.3,
    "ci_high": -0.2,
    "items": 8,
    "clusters": 4,
}


def test_page_has_the_matrix_and_says_what_is_not_trained() -> None:
    """The interference of memory with the router's set stands in the router's row."""
    shared = {"split": "dev", "weights": "int8", "seeds": [0, 1], "unit": "passage"}
    without = {"seed 0": {"online": "no bank"}}
    pairs = {
        "router_with_memory": {
            "f1": ROW,
            "interference": {"memory on router": ROW, "router on memory": {**ROW, "items": 0}},
        }
    }
    timed = {
        "rounds": 3,
        "p50_s": {"router": 1.0, "router + memory": 1.5},
        "ratios": {
            "router + memory": {
                "ratio": 1.5,
                "ci_low": None,
                "ci_high": None,
                "slowest_alone": "router",
            }
        },
    }
    page = markdown({
        "fleet_pairwise": {**shared, "without": without, "matrix": pairs, "latency": timed},
        "fleet_all_five": {**shared, "without": without, "matrix": {"router": ROW}},
    })  # fmt: skip

    assert "- online, seed 0: no bank" in page
    assert "| router + memory | 0.500 | 0.750 | -0.250 [-0.300, -0.200] | 8 | 4 |" in page
    assert "| router |  |  |  |  | -0.250 [-0.300, -0.200] |" in page
    assert "| memory |  |  |  |  |  |" in page
    assert "| router + memory | 1.50 | 1.500 | router |" in page

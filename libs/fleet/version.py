"""Version of the fleet's code, which images hold without an installed package's metadata."""

VERSION = "0.1.0"
"""Equal to ``version`` in pyproject.toml; a unit test compares them."""

"""Root folder of the repository checkout, for commands that read its files."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""Root folder of the checkout, with ``results``, ``adapters``, ``charts`` and ``services``."""

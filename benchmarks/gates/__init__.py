"""Gate Bench: decisions of canary gates on traces with known ground truth."""

"""Evaluation studies that write the per-item score reports of the acceptance gates."""

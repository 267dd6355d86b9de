"""Acceptance gates: what each mission must show, as data, and the verdict on measured scores."""

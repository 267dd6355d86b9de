"""Studies: reports with per-item scores that the acceptance gates read."""

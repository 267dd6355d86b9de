"""The chart, rendered."""

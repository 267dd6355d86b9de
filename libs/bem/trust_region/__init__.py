"""The bound on the norm of the summed weight deltas."""

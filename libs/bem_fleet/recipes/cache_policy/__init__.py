"""Recipe of the learned cache policy."""

"""Controllers that set the rank-wise code of a skill."""

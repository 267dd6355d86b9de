"""Online learner core: codes of a shared bank are the only numbers that feedback changes."""

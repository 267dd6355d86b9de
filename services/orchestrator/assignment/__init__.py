"""GPU assignment: a pure function of GPU requests, nodes and the current placement."""

"""Mission C at the exit: the sidecar in front of every mission."""

"""Other engines on the same machine, each in a process and an environment of its own."""

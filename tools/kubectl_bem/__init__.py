"""``kubectl bem``: canaries from the command line; prints the plain kubectl that it runs."""

"""Integration tests: real servers on loopback and unix sockets."""

"""End-to-end tests: the whole fleet as its users run it, with the real model."""

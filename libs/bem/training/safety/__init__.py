"""Training of the safety adapter: quality at its best subject to few violations."""

"""Mission sep: answers, embeddings and a measure that depend little on the surface of a text."""

"""How texts are scored: normalisation, embeddings, learned heads, and one scorer a constraint."""

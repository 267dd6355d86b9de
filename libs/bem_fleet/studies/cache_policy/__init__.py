"""Study of cache policies: quality and bytes of a compressed KV cache on the passage questions."""

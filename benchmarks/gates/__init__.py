"""Gate Bench: what canary gates decide on traces whose truth is known."""

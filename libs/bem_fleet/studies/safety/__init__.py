"""What the safety basis does on attacks that it was not trained on, and on harmless questions."""

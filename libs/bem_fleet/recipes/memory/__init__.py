"""Recipe of mission memory: trains gate, keys, decay, score weights and confidences."""

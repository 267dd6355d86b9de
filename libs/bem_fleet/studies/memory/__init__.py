"""Study of mission memory: which evidence reaches the reader, by task, length and bytes."""

"""Training recipe of the embedding head of mission sep."""

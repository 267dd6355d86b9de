"""Recipe of mission sep: character models of every arm, trained on books."""

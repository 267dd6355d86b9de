"""Training recipe of the surface front of mission sep."""

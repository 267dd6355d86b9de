"""The services of the fleet: one folder each, one name everywhere."""

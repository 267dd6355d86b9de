"""Programs that run in the environments of peers; each reads commands and writes results."""

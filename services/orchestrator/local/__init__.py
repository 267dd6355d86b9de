"""One machine without a cluster: missions in files, adapter canaries only."""

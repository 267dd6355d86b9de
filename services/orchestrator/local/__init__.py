"""One machine without a cluster: missions in files, canaries of adapters."""

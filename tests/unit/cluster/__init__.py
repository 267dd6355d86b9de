"""The cluster tool's parts."""

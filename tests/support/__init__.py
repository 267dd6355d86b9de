"""Helper modules that several test packages share."""

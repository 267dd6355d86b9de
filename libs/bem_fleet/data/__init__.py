"""Data: read out of installed packages or generated, cleaned, formatted, batched and described."""

"""End-to-end tests of the local fleet with the packaged base model."""

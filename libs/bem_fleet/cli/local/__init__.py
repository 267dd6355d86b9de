"""Local fleet: every service as a supervised process on one machine."""

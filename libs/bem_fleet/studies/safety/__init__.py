"""Safety study: figures of the safety adapter alone, and of the fleet with mission C."""

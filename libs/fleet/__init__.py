"""The runtime of a service: gRPC, settings, logs, metrics, streams; no model."""

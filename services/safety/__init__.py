"""Safety sidecar: gRPC reverse proxy that filters the requests and responses of a mission."""

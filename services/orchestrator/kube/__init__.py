"""Kubernetes: API client, informers and leader election."""

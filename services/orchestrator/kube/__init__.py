"""The Kubernetes API as the orchestrator uses it: plain JSON objects, caches, a lease."""

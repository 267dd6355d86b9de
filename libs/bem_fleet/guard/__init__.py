"""Content guard: scorers of requests and responses, the safety policy and its findings."""

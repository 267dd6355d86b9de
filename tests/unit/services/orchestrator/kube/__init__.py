"""Tests of the Kubernetes client, informers and leader election."""

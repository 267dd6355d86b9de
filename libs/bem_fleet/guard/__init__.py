"""Content guard library: scorers, safety policy, findings, spans and the training of its heads.

It uses neither gRPC nor torch: the safety sidecar serves it, and it can be used offline as
``pip install bem-fleet[guard]``.
"""

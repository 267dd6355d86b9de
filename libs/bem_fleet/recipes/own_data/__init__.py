"""Recipe of people's own data: an adapter from JSON Lines, and a comparison of two models on them.

Train with ``fleetctl train --data train.jsonl --eval eval.jsonl --out adapters/NAME`` and compare
with ``fleetctl evaluate --data eval.jsonl --model adapters/NAME``.
"""

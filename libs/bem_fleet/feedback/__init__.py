"""Feedback queue and processor of mission B, without a server.

The gateway scrubs feedback and hands it to ``intake``; ``consumer`` takes it from a Redis stream
and gives each entry one effect by ``event_store``, or moves it to ``dead_letters`` with the reason.
The learner reads families of events that have a quorum, and ``forgetting`` removes a user's
feedback from all of it (ADR 0043). Redis runs with ``appendfsync always`` and is one server, not a
cluster: one script changes keys of several names.
"""

"""Model library: a frozen backbone, its adapters, and the engine that serves them.

Packages, lowest layer first: ``errors`` · ``digests``, ``journal`` · ``artifacts`` · ``backbone``
· ``controller``, ``trust_region`` · ``adapters`` · ``composition`` · ``safety`` · ``engine`` ·
``training``. The import contract "the model library in layers" enforces this order.

Each mission has one package beside ``safety``. The names ``policy`` (router), ``online``, ``sep``
and ``memory`` are reserved for those that follow; the contract lists them as optional siblings,
so that no mission imports another. Data, scores, evaluation and command lines are not part of the
model: they are in ``bem_fleet``, which this library never imports.
"""

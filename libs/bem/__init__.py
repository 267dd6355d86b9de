"""Model library: a frozen backbone, its adapters, and the engine that serves them.

Packages, lowest layer first: ``errors`` · ``digests``, ``journal`` · ``artifacts`` · ``backbone``
· ``controller``, ``trust_region`` · ``adapters`` · ``composition`` · ``safety`` · ``engine`` ·
``training``. The import contract "the model library in layers" enforces this order.

Each mission has one package beside ``safety``. The names ``policy`` (router), ``online``, ``sep``
and ``memory`` are reserved for those that follow; the contract lists them as optional siblings,
so that no mission imports another. Data, scores, evaluation and command lines are not part of the
model: they are in ``bem_fleet``, which this library never imports.
"""

import os

# libgomp reads this once, when torch loads it: every program that computes imports this package
# first. By default its threads spin for milliseconds at each of the hundreds of barriers of a
# decode step. Beside other busy processes the thread that is waited for then has no processor, and
# a request takes ten times as long. A wait of this many turns, some microseconds, spans the
# barriers of an idle machine; after it a thread sleeps. See ADR 0034.
SPIN_COUNT = 4000
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)

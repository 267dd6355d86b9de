"""Training of adapters: cached activations, packed steps, memory budget and checkpoints.

The library trains from token ids. Data sets, recipes and command lines are in
``bem_fleet.recipes``.
"""

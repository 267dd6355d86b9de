"""Scramble-equivariant pretraining (mission D): bijective scrambles, objective and phases.

Scrambles of texts (typos, clause order, synonyms) are in ``bem_fleet.data.scrambles``.
"""

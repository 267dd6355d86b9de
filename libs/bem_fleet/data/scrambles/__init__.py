"""Scrambles of texts: surface, syntax and semantic changes, with a record that undoes each.

Bijective scrambles of token ids are in ``bem.sep``. ``catalogue`` has all kinds by name.
"""

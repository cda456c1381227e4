"""Heimdall's servers; `servers/README.md` says what lives where and who may import whom.

Records that hold any of some entities: `planner.graph_terms.records_holding` asks a store, over a set that `canonical.entity_sets.entity_set` makes.
"""

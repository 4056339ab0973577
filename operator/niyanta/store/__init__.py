"""Storage in Postgres. `state.StateManager` is its interface; rows leave this package as frozen dataclasses.

The store makes no decisions: the scheduler requests transitions, the store checks them (epoch, version, lifecycle
table) and commits them.
"""

"""The record: Postgres. `state.StateManager` is the door to it; rows leave this package as frozen dataclasses.

Nothing here decides: the scheduler asks for transitions, the store checks them (epoch, version, lifecycle table) and
writes them down in one transaction each.
"""

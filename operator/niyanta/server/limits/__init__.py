"""Limits of the REST door on work in progress: requests and memory, key lookups, connections."""

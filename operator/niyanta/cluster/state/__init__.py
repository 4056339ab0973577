"""Cluster state for the engine: workers, their usage, and the capacity of an empty worker of each pool."""

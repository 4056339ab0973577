"""Cluster state for the engine: workers, their usage, and what an empty worker of each pool offers."""

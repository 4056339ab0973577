"""Watching: reflectors for nodes and pods, kopf for the custom resources, and the stores they fill."""

"""Watches: reflectors for nodes and pods, kopf for the custom resources, and the stores that they fill."""

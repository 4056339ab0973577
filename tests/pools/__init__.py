"""Scaling: the rule, the providers, and both together."""

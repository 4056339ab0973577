"""Demand statistics of pools and namespaces, and the sizing they come from."""

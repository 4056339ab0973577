"""Sizing: how many workers of each pool the waiting workloads need."""

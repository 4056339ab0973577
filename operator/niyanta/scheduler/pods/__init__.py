"""Pods of committed placements: creation, removal and outcome."""

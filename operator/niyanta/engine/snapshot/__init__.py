"""The cluster as arrays and bitsets, kept up to date by deltas."""

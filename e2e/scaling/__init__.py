"""Pools that grow and shrink: sizing, scalers, providers, the metrics adapter, and autoscalers."""

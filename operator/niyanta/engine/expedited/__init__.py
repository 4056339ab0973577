"""The expedited lane: bounds the wait of workloads that priority alone would starve."""

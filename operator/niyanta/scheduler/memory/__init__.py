"""What the leader keeps in memory of live workloads."""

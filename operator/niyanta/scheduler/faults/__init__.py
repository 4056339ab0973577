"""Containment of unexpected errors in the leader: batches, workloads and phases of a round, each on its own."""

"""Everything that brings workloads into the leader's memory: work queue, admission and refill."""

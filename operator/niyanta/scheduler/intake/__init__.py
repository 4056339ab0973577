"""Intake of workloads into the leader's memory: work queue, admission and reviews."""

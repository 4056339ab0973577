"""Feasibility, scoring and selection of workers for one workload after another."""

"""Feasibility, scoring and selection of workers for the workloads of a cycle, one after another."""

"""The placement cycle, and the explanation of workloads that it didn't place."""

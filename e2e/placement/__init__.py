"""Where Workloads go: affinity, groups, templates, the examples, and the trace."""

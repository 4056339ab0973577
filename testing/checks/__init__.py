"""Checks that share no code with the operator: Kubernetes' rules for pods and nodes, and placements."""

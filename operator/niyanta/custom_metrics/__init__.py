"""The adapter that serves custom.metrics.k8s.io from the leader's demand statistics, and its certificate."""

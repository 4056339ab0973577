"""The leader's work: admission, placement cycles, transitions of rows and their pods. It reaches the cluster only
through the protocols of `cluster_api`."""

"""The cycle: load -> engine -> commit -> apply, and what becomes of the pods. It reaches the cluster only by `ports`."""

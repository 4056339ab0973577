"""The cycle: load -> engine -> commit -> apply, and what becomes of the pods; reaches the cluster by `ports` alone."""

"""Running, retries, limits, lost nodes, and observed pods."""

"""Data that only the leader writes: projections, demand statistics and scaling decisions."""

"""Scaling of WorkerPools: keeps the number of workers at spec.replicas.

`controller` runs one task per pool: it reads the group from the pool's provider, makes a plan by `policy`, and
`executor` carries the plan out. `pool_nodes` reads and writes nodes and pools in the cluster; `pool_status` writes
statuses.
"""

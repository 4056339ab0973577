"""From WorkerPool.spec.replicas to nodes.

`controller` keeps a task per pool: it asks the pool's provider for the group as it exists, makes a plan by `policy`,
and has `executor` carry it out. `pool_nodes` is the cluster's side: nodes, pods, cordons, Events.
"""

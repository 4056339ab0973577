"""From WorkerPool.spec.replicas to nodes.

`scaler` keeps a task per pool: it asks the pool's provider what exists (`ec2`, `kwok`), lets `decide` say what to do,
and has `execute` do it. `fleet` is the cluster's side: nodes, pods, cordons, Events.
"""

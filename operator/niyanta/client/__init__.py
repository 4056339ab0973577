"""The user's command line over the REST door.

`commands` has the commands. `context` gives them the configuration (`config`), requests (`api`) and output (`output`,
`tables`). Nothing here uses Postgres or Kubernetes.
"""

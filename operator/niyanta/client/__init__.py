"""The user's command line over the REST door.

`commands` says what there is; `session` joins configuration (`config`), requests (`rest`) and what is shown (`output`,
`views`). Nothing here knows Postgres or Kubernetes.
"""

"""The REST door: `niyanta api`. It uses Postgres and has no access to Kubernetes.

`app` assembles it; `limits` bounds connections, requests in flight and their memory. A submission passes through
`submit`: body -> manifest (the API server's validation, the Customer's lists, the restricted Pod Security standard) ->
batcher (one commit for requests that arrive together) -> store.
"""

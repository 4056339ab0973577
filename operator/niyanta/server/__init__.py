"""The REST door: `niyanta api`. It knows Postgres and nothing of Kubernetes.

`app` puts it together; a submission goes body -> reading (same verdict as the API server) -> security (restricted Pod
Security standard) -> gather (one commit for those that arrive together) -> store.
"""

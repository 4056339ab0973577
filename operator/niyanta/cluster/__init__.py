"""Kubernetes: watches (kopf, reflectors), requests (client), statuses and Events, the fence and the leader election."""

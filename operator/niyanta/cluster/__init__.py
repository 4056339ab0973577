"""Kubernetes: watching (kopf, reflectors), writing (client), projecting, the fence and the election."""

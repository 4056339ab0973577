"""Providers add and remove the machines of a pool: EC2 Auto Scaling groups and simulated kwok nodes."""

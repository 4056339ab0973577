"""What Prometheus, probes and autoscalers read."""

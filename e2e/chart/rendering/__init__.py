"""Rendering of the chart with its values; only the schemas of kubeconform need a control plane."""

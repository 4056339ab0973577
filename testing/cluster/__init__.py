"""The test cluster: its tools as pinned Go modules, and the ways to bring a control plane up."""

"""The test cluster: its tools from pinned Go modules, control planes, simulated nodes, and an API client."""

"""Both doors, and manifests that are wrong."""

"""From a manifest to the engine's requirements, and from a placement to a pod."""

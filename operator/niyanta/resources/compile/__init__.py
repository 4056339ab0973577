"""Conversion of a manifest to the engine's requirements, and of a placement to pods."""

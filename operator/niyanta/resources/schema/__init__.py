"""CRDs, OpenAPI schemas and the reference page, generated from the models."""

"""Response models, serializers, the OpenAPI document and the generated pages."""

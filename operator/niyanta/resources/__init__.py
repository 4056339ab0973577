"""The three custom resources: models, their CRDs, and their conversion to engine requirements and pods.

`models` parses manifests, `compile.requirements.compile_workload` turns a spec into requirements of the engine,
`compile.pod.build_pod` makes the pods, and `schema.crds` renders the schemas.
"""

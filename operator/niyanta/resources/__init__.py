"""The three custom resources: models, their CRDs, and what the engine and the cluster need made from them.

Manifests come in through `workload.Workload` and friends, `requirements.compile_workload` turns a spec into the
engine's words, `pod.build_pod` into pods; `crds` renders the schemas.
"""

# One image for all processes: `niyanta operator`, `niyanta api`, `niyanta migrate`.

# Builds of a release name the base image by digest: --build-arg BASE_IMAGE=python:3.13-slim@sha256:... (docs/security.md).
ARG BASE_IMAGE=python:3.13-slim

FROM ${BASE_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /src
# --without-pip: the image contains no installer.
RUN python -m venv --without-pip /opt/niyanta

# Layers that rarely change come first. The build backend is pinned and hash-checked like the other packages.
COPY requirements.lock requirements-build.lock ./
RUN pip --python /opt/niyanta/bin/python install --require-hashes --only-binary :all: -r requirements.lock \
    && pip install --require-hashes --only-binary :all: -r requirements-build.lock

COPY pyproject.toml README.md LICENSE ./
COPY operator/ operator/
RUN pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /dist . \
    && pip --python /opt/niyanta/bin/python install --no-deps --no-index /dist/*.whl


FROM ${BASE_IMAGE}
# The root file system may be read-only: processes write only to /tmp.
ENV PATH=/opt/niyanta/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
COPY --from=build /opt/niyanta /opt/niyanta
WORKDIR /tmp
# A numeric user, so that Kubernetes can verify that it isn't root.
USER 65532:65532
EXPOSE 6443 8080 9090
ENTRYPOINT ["niyanta"]
CMD ["operator"]

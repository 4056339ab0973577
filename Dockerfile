# One image for every process: `niyanta operator`, `niyanta api`, `niyanta migrate`.

FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /src
# --without-pip: nothing in the image's environment can install anything.
RUN python -m venv --without-pip /opt/niyanta

# What rarely changes comes first. The build backend is pinned and hash-checked like everything else.
COPY requirements.lock requirements-build.lock ./
RUN pip --python /opt/niyanta/bin/python install --require-hashes --only-binary :all: -r requirements.lock \
    && pip install --require-hashes --only-binary :all: -r requirements-build.lock

COPY pyproject.toml README.md LICENSE ./
COPY operator/ operator/
RUN pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /dist . \
    && pip --python /opt/niyanta/bin/python install --no-deps --no-index /dist/*.whl


FROM python:3.13-slim
# The root file system may be read-only: nothing is written but /tmp.
ENV PATH=/opt/niyanta/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
COPY --from=build /opt/niyanta /opt/niyanta
WORKDIR /tmp
# By number, so that Kubernetes can tell that it isn't root.
USER 65532:65532
EXPOSE 6443 8080 9090
ENTRYPOINT ["niyanta"]
CMD ["operator"]

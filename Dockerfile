# syntax=docker/dockerfile:1
# The program of a worker, or of one run on a cluster: docs/operations.md. No data, no secret and no clone is inside; a
# run fetches the project at the commit that is meant, and its data by DVC.
#
#   docker build -t aesc .                        CUDA: PyPI's torch
#   docker build -t aesc:cpu --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .
FROM python:3.11-slim

# Empty: torch from PyPI, whose Linux build brings CUDA. Another index has other builds.
ARG TORCH_INDEX=""

# git: a run's commit, and the pull step that clones the project. Debian keeps no old versions that one could pin.
# hadolint ignore=DL3008
RUN apt-get update \
  && apt-get install --yes --no-install-recommends git \
  && rm -rf /var/lib/apt/lists/* \
  && useradd --create-home --uid 1000 aesc \
  && install --directory --owner aesc --group aesc /opt/aesc /state

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    AESC_HOME=/state \
    NUMBA_CACHE_DIR=/state/numba \
    DO_NOT_TRACK=1 \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

WORKDIR /opt/aesc
RUN python -m venv /opt/venv

# What changes seldom comes first: torch, then the other libraries, then the project.
COPY pyproject.toml constraints.txt README.md LICENSE aesc_prefect_plugin.py ./
RUN if [ -n "$TORCH_INDEX" ]; then \
      pip install "$(grep '^torch==' constraints.txt)" --index-url "$TORCH_INDEX"; \
    fi \
  && mkdir aesc tasks flows \
  && touch aesc/__init__.py tasks/__init__.py flows/__init__.py \
  && pip install --constraint constraints.txt prefect-docker prefect-kubernetes . \
  && pip uninstall --yes aesc-pipeline

COPY aesc aesc
COPY tasks tasks
COPY flows flows
COPY params.yaml prefect.yaml ./
RUN pip install --no-deps . \
  && rm -rf build

# The number, by which Kubernetes can tell that it is not root.
USER 1000
VOLUME /state
# A run's own command replaces it; so does `prefect worker start --pool gpu --type process --limit 1`.
CMD ["aesc", "--help"]

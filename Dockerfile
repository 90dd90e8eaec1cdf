# What is installed is pinned by hash in requirements/container.txt; SECURITY.md says how to pin the base image as well.
ARG PYTHON=python:3.13-slim

FROM $PYTHON AS build
RUN python -m venv /opt/venv
COPY requirements/container.txt /tmp/requirements.txt
RUN /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --require-hashes -r /tmp/requirements.txt \
    && /opt/venv/bin/pip uninstall --yes --quiet pip
COPY app /srv/app
RUN /opt/venv/bin/python -m compileall -q /srv/app

FROM $PYTHON
ARG VERSION=unreleased
ARG REVISION=unknown
LABEL org.opencontainers.image.title="gemini-images" \
      org.opencontainers.image.description="An HTTP service in front of Google's Gemini image models" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
# Nothing is installed in a running container, and whoever gets into one should find nothing to install with.
RUN python -c "import importlib.util as u, shutil; [shutil.rmtree(place) for name in ('pip', 'ensurepip') \
    if (found := u.find_spec(name)) for place in found.submodule_search_locations]" \
    && rm -f /usr/local/bin/pip* && mkdir /data && chown 10001:10001 /data
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOST=0.0.0.0 PORT=8000 DATA_DIR=/data
COPY --from=build /opt/venv /opt/venv
COPY --from=build /srv /srv
WORKDIR /srv
USER 10001:10001
EXPOSE 8000
VOLUME /data
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/healthz', timeout=2)"]
# `docker run … gemini-images app doctor` and `… app migrate` run the other commands.
ENTRYPOINT ["python", "-m"]
CMD ["app"]

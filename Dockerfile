FROM python:3.13-slim AS build
RUN python -m venv /opt/venv
COPY requirements/container.txt /tmp/requirements.txt
RUN /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --require-hashes -r /tmp/requirements.txt \
    && /opt/venv/bin/pip uninstall --yes --quiet pip
COPY app /srv/app
RUN /opt/venv/bin/python -m compileall -q /srv/app

FROM python:3.13-slim
LABEL org.opencontainers.image.title="gemini-images" \
      org.opencontainers.image.description="An HTTP service in front of Google's Gemini image models" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOST=0.0.0.0 PORT=8000
COPY --from=build /opt/venv /opt/venv
COPY --from=build /srv /srv
WORKDIR /srv
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/healthz', timeout=2)"]
CMD ["python", "-m", "app"]

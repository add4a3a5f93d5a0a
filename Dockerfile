# speechmeta on a CPU: docker build -t speechmeta . ; docker run --rm -v "$PWD/calls:/calls:ro" speechmeta analyze /calls/a.wav
FROM python:3.11-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /opt/speechmeta
COPY constraints.txt ./
# The CPU wheels are a tenth of the size of the default ones.
RUN /opt/speechmeta/bin/pip install -c constraints.txt --no-deps torch torchaudio \
    --index-url https://download.pytorch.org/whl/cpu
COPY . .
RUN /opt/speechmeta/bin/pip install -c constraints.txt '.[server,parquet]'

FROM python:3.11-slim-bookworm
COPY --from=build /opt/speechmeta /opt/speechmeta
ENV PATH=/opt/speechmeta/bin:$PATH PYTHONDONTWRITEBYTECODE=1 HF_HUB_DISABLE_TELEMETRY=1 HF_HOME=/var/lib/speechmeta/hub
RUN useradd --system --uid 10001 --home-dir /var/lib/speechmeta --create-home speechmeta
USER 10001
WORKDIR /var/lib/speechmeta
VOLUME /var/lib/speechmeta
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=120s --interval=30s --timeout=5s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["speechmeta"]
# Keys are asked for, as the container is reached from outside: mount them, see compose.yaml.
CMD ["serve", "--host", "0.0.0.0", "--state", "/var/lib/speechmeta/jobs", "--api-key-file", "/run/secrets/speechmeta_keys", "--log-format", "json"]

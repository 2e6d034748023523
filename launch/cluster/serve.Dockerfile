# The image for serving, on CPUs:
#
#     docker build --file launch/cluster/serve.Dockerfile --tag bertline-serve .
#     docker run --read-only --stop-timeout 40 --publish 127.0.0.1:8000:8000 \
#         --volume "$PWD/bundles/demo:/bundles/demo:ro" bertline-serve /bundles/demo
#
# It contains no bundle: mount one, or copy one in an image built from this one. It writes nothing to disk. When
# stopped, it gives requests 30 s to finish (6 s more than --limit seconds, if that is longer) and traces 10 s to be sent;
# without --stop-timeout Docker kills it after 10.
FROM python:3.11-slim

WORKDIR /opt/bertline
COPY pyproject.toml setup.py constraints.txt README.md LICENSE ./
COPY artifacts/ artifacts/
COPY tasks/ tasks/
COPY models/ models/
COPY serve/ serve/
COPY bench/ bench/
COPY export/ export/
COPY train/ train/
COPY launch/ launch/
COPY benchmarks/ benchmarks/
COPY bertline/ bertline/
RUN pip install --no-cache-dir --constraint constraints.txt '.[serve,openvino,tracing,sign]'

ENV PYTHONDONTWRITEBYTECODE=1

RUN useradd --no-create-home --uid 1000 bertline
USER 1000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=2)"]
ENTRYPOINT ["bertline", "serve", "--host", "0.0.0.0"]

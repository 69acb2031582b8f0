FROM python:3.13-slim AS build
WORKDIR /app
# requirements-traces.txt has OpenTelemetry's SDK as well.
ARG REQUIREMENTS=requirements.txt
COPY $REQUIREMENTS requirements.txt
RUN python -m venv --without-pip .venv \
    && python -m pip --python .venv/bin/python install --no-cache-dir --require-hashes -r requirements.txt
COPY backend backend
COPY migrations migrations
# Who runs it may not write what Python compiles, and may be anybody, whatever the modes were where this was built.
RUN .venv/bin/python -m compileall -q backend && chmod -R a+rX .

FROM python:3.13-slim
# Nothing is installed any more, so that nothing can be.
RUN python -m pip uninstall --yes --quiet --root-user-action=ignore pip && rm -r /usr/local/lib/python3.*/ensurepip
ARG VERSION=unknown
LABEL org.opencontainers.image.title="todo-backend" \
      org.opencontainers.image.description="FastAPI backend for Todo frontends that sign people in with Better Auth" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION"
WORKDIR /app
COPY --from=build /app ./
ENV PATH=/app/.venv/bin:$PATH HOST=0.0.0.0 PORT=8000
# A number: Kubernetes cannot tell from a name that it is not root.
USER 65534:65534
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=3s CMD ["python", "-c", "import http.client as h, os; c = h.HTTPConnection('127.0.0.1', os.environ['PORT'], timeout=2); c.request('GET', '/livez'); exit(c.getresponse().status != 200)"]
# The schema is brought up to date beforehand: docker run … python -m backend migrate
CMD ["python", "-m", "backend", "serve"]

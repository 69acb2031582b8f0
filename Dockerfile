FROM python:3.13-slim
WORKDIR /app
COPY requirements.txt ./
RUN pip install --no-cache-dir --require-hashes -r requirements.txt
COPY backend backend
COPY migrations migrations
# The user below may not write what Python compiles.
RUN python -m compileall -q backend
USER nobody
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=3s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=2)"]
# The schema is brought up to date beforehand: docker run … python -m backend migrate
CMD ["python", "-m", "backend", "serve", "--host", "0.0.0.0"]

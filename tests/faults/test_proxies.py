"""Does a proxy that keeps its connections lose a request, or mix up two answers? Debian's nginx, HAProxy and Caddy.

They try nothing again where that can be set, so that a connection which the backend ends too early is seen.
"""

import os
from collections.abc import Iterator

import pytest
from databases import upgrade
from faults.befall import settle
from faults.load import Load
from servers import NGINX, Application, application, debian_postgres, folder, free_port, listening, program, until

CLIENTS = 50
REQUESTS = 100_000 if os.environ.get("FAULTS") == "1" else 1_000
CONFIGURATIONS = {
    "nginx": NGINX.replace(
        "SITE",
        """\
    upstream backend { server BACKEND; keepalive 64; }
    server {
        listen 127.0.0.1:PORT;
        location / {
            proxy_pass http://backend;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_next_upstream off;
        }
    }
""",
    ),
    "haproxy": """\
defaults
    mode http
    retries 0
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend clients
    bind 127.0.0.1:PORT
    default_backend backends
backend backends
    http-reuse always
    server backend BACKEND
""",
    "caddy": """\
{
    "admin": {"disabled": true, "config": {"persist": false}},
    "apps": {"http": {"servers": {"proxy": {
        "listen": ["127.0.0.1:PORT"],
        "routes": [{"handle": [{"handler": "reverse_proxy", "upstreams": [{"dial": "BACKEND"}]}]}]
    }}}}
}
""",
}
COMMANDS = {
    "nginx": ("-p", ".", "-e", "stderr", "-c"),
    "haproxy": ("-db", "-f"),
    "caddy": ("run", "--config"),
}


@pytest.fixture(scope="module")
def app() -> Iterator[Application]:
    with debian_postgres(fsync="off") as server:
        upgrade(server.url())
        with application(server.url(), "--workers", "2", processes=2) as app:
            yield app


@pytest.mark.spec("FR-023", "SC-002")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("proxy", CONFIGURATIONS)
def test_no_request_is_lost_and_no_answer_is_anothers(app: Application, proxy: str) -> None:
    port = free_port()
    load = Load(("127.0.0.1", port), CLIENTS, 0)
    with folder() as home:
        file = home / "proxy.conf"
        backend = "{}:{}".format(*app.address)
        file.write_text(CONFIGURATIONS[proxy].replace("BACKEND", backend).replace("PORT", str(port)))
        with listening(port, home / "proxy.log", program(proxy), *COMMANDS[proxy], str(file)):
            with load.running():
                until(lambda: load.tally.requests >= REQUESTS, "too slow", 600)
            outcome = settle(f"{proxy} in front of 2 workers", app, load, 0)

    assert outcome.tally.failures == {}

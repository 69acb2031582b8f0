"""How is the key set fetched from the issuer?"""

import asyncio
import os
import ssl
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from backend.auth.jwks import FetchError
from backend.certificates import verifying_context

if TYPE_CHECKING:
    import httpx

CONNECT_TIMEOUT = 2
TOTAL_TIMEOUT = 5
MAX_BYTES = 65_536


def shown_address(url: str) -> str:
    """Return the URL without the parts that may be secret: user name, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class HttpSource:
    """Fetches the body of the key set; returns None for a 404, and raises FetchError for all but a plain 200."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._where = shown_address(url)
        self._client: httpx.AsyncClient | None = None

    async def __call__(self) -> bytes | None:
        if not self._client:
            # Only when needed, and in a thread: loading httpx and the root certificates takes some 100 ms and 10 MiB.
            try:
                self._client = await asyncio.to_thread(http_client, self._url)
            except OSError as error:
                raise FetchError(f"{type(error).__name__} with the certificates that SSL_CERT_FILE names") from error
        import httpx

        try:
            async with asyncio.timeout(TOTAL_TIMEOUT):
                return await self._body(self._client)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise FetchError(f"{type(error).__name__} at {self._where}") from error

    async def close(self) -> None:
        if self._client:
            await self._client.aclose()

    async def _body(self, client: "httpx.AsyncClient") -> bytes | None:
        # Not compressed, so that MAX_BYTES limits the memory. Not kept alive: the server may close an idle connection
        # at the moment when it is used again, and the fetch would fail.
        headers = {"Accept-Encoding": "identity", "Connection": "close"}
        async with client.stream("GET", self._url, headers=headers) as response:
            if response.status_code == HTTPStatus.NOT_FOUND:
                return None
            if response.status_code != HTTPStatus.OK:
                raise FetchError(f"status {response.status_code} at {self._where}")
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise FetchError(f"more than {MAX_BYTES} bytes at {self._where}")
            return bytes(body)


def http_client(url: str) -> "httpx.AsyncClient":
    """Return a client that connects to this address directly; raise OSError if SSL_CERT_FILE is needed and wrong.

    It ignores the environment's proxies and .netrc: they are meant for a shell, and would apply to localhost, too.
    """
    import httpx

    secure = url.startswith("https:")
    # Without TLS no certificates are needed: this context trusts none, and is made in no time.
    context = verifying_context(os.environ.get("SSL_CERT_FILE")) if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    timeout = httpx.Timeout(TOTAL_TIMEOUT, connect=CONNECT_TIMEOUT)
    return httpx.AsyncClient(timeout=timeout, verify=context, trust_env=False)

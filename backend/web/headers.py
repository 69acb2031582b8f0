"""Which headers does every answer have?

Apart from `answers.py`, so that a command that only needs the server's protocol does not load the database's libraries.
"""

Headers = list[tuple[bytes, bytes]]

# Personal data: no cache may keep it, and no browser may take it for anything but JSON.
PRIVATE = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
CONTENT_TYPE = (b"content-type", b"application/json")


def described(body: bytes) -> Headers:
    """Return the headers of an answer with this body; none is no body at all, as 204 wants it."""
    return [*([CONTENT_TYPE, (b"content-length", b"%d" % len(body))] if body else []), *PRIVATE]

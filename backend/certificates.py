"""Which authorities may vouch for a server?"""

import ssl


def verifying_context(authorities: str | None = None) -> ssl.SSLContext:
    """Return what verifies a server by the certificates in this file; raise OSError where it holds none.

    Without a file the system's count, as OpenSSL finds them (SSL_CERT_FILE, SSL_CERT_DIR), or certifi's if it has none.
    """
    context = ssl.create_default_context(cafile=authorities)
    if not authorities and not context.get_ca_certs():
        import certifi

        context.load_verify_locations(certifi.where())
    return context

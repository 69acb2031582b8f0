"""The Todo API behind a Better Auth frontend."""

__version__ = "1.0.0"

"""The Todo API behind a Better Auth frontend."""

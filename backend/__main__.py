"""Runs the command line: `python -m backend`."""

from backend.cli import run

if __name__ == "__main__":
    run()

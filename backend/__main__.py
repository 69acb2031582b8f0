"""Runs the command line: `python -m backend`."""

from backend.commands.cli import run

if __name__ == "__main__":  # pragma: no branch - the processes that it starts import it under another name
    run()

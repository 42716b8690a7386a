"""The published E2B SDK for Python against a server: only its environment variables are set."""

import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).parent.parent))

import asynchronous  # noqa: F401
import harness
import sync  # noqa: F401

harness.run()

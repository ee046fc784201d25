"""Runs a script, in a process of its own or in this one."""

import os
import runpy
import subprocess
import sys
import unittest.mock
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "scripts"


def run_script(script, *arguments, **environment):
    """The finished process; other keyword arguments are its environment."""
    return subprocess.run(
        [sys.executable, SCRIPTS / script, *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def call_main(script, *arguments):
    """The exit status; this process has imported most of it already."""
    # Some choose a backend, which this process has chosen already.
    with unittest.mock.patch.dict(os.environ):
        main = runpy.run_path(str(SCRIPTS / script))["main"]
    return main([*map(str, arguments)])

import signal
import subprocess
import sys

import pytest

from canary.cli import main


@pytest.fixture
def canary(monkeypatch, capsys):
    """Run the command line in this process: as a process of its own would, without
    waiting for one to start."""
    monkeypatch.setenv("COLUMNS", "80")
    on_sigterm = signal.getsignal(signal.SIGTERM)

    def run(*arguments, cwd):
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["canary", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        return subprocess.CompletedProcess(
            arguments, stop.value.code, *capsys.readouterr()
        )

    yield run
    signal.signal(signal.SIGTERM, on_sigterm)

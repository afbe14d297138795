from __future__ import annotations

import pathlib
import shutil
import sys
import tempfile
from typing import Iterator

import pytest

# The sources are embedded in the `funcatron` binary as they stand: tests leave nothing among them.
sys.dont_write_bytecode = True

from harness import Host  # noqa: E402


def _make_short_dir() -> pathlib.Path:
    # A Unix socket's path has 107 bytes; pytest's own directories are longer on some machines.
    return pathlib.Path(tempfile.mkdtemp(prefix="fh-"))


@pytest.fixture
def short_dir() -> Iterator[pathlib.Path]:
    path = _make_short_dir()
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def own_host(short_dir: pathlib.Path) -> Iterator[Host]:
    """A host of the test's own, which it may end."""
    host = Host(short_dir)
    yield host
    if host.process.poll() is None:
        assert host.stop() == 0


@pytest.fixture(scope="session")
def long_lived_host() -> Iterator[Host]:
    path = _make_short_dir()
    host = Host(path)
    yield host
    assert host.stop() == 0
    assert host.errors() == ""
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def host(long_lived_host: Host) -> Iterator[Host]:
    """The host that most tests share, one after the other: that it lives through them is part of the test."""
    long_lived_host.reset()
    for code in long_lived_host.directory.glob("code*"):
        shutil.rmtree(code)
    yield long_lived_host
    assert long_lived_host.process.poll() is None

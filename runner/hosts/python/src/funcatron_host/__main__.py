"""Starts the host: `python3 -m funcatron_host --control PATH`."""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import signal
import sys

from . import __version__
from .control import Control
from .logs import LogSink
from .supervisor import Supervisor

GRACE_MS = 5000  # a pod that is deleted leaves its containers 30 s, most of which the runner's drain has had
LOG_CLOSE_S = 1.0  # the last lines may take so long to leave


def main() -> int:
    arguments = _parse(sys.argv[1:])
    try:
        return asyncio.run(_serve(arguments))
    except OSError as error:
        print(f"cannot listen on {arguments.control}: {error.strerror}", file=sys.stderr)
        return 1


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="funcatron_host", description="Runs Python functions for a runner.")
    parser.add_argument("--control", required=True, metavar="PATH", help="Unix socket that the runner connects to")
    parser.add_argument("--control-mode", default="0600", type=lambda text: int(text, 8), metavar="MODE",
                        help="its file mode, octal (default 0600; 0666 where the runner has another uid)")
    parser.add_argument("--grace-ms", default=GRACE_MS, type=int, help="between SIGTERM and SIGKILL of workers")
    parser.add_argument("--exit-with-stdin", action="store_true", help="end when stdin is closed, as a child should")
    parser.add_argument("--version", action="version", version=__version__)
    return parser.parse_args(argv)


async def _serve(arguments: argparse.Namespace) -> int:
    _raise_descriptor_limit()
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    sink = LogSink(sys.stdout.fileno())
    supervisor = Supervisor(sink)
    control = Control(supervisor)
    loop.add_signal_handler(signal.SIGCHLD, supervisor.reap)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if arguments.exit_with_stdin:
        loop.add_reader(sys.stdin.fileno(), _on_stdin, stop)
    await control.listen(arguments.control, arguments.control_mode)
    await stop.wait()
    await control.close()
    await supervisor.end_all(arguments.grace_ms / 1000)
    supervisor.close()
    sink.close(LOG_CLOSE_S)
    try:
        os.unlink(arguments.control)
    except OSError:
        pass  # its directory may be gone already
    return 0


def _on_stdin(stop: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        stop.set()


def _raise_descriptor_limit() -> None:
    # Three descriptors for each worker: the usual soft limit of 1024 would be spent by 300 of them.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        pass  # fewer revisions fit, and `load` says so


if __name__ == "__main__":
    sys.exit(main())

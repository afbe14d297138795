"""The fork server: a warm interpreter that forks workers and reaps them.

It is started with a clean environment, reads no specification and runs no user code, so that a worker
inherits nothing that is not its own. Commands are nine bytes: an operation and a process id.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import struct
import sys

FRAME = struct.Struct(">cQ")
SPAWN, TERM, KILL = b"S", b"T", b"K"
WARM = ("asyncio", "base64", "collections", "concurrent.futures", "csv", "dataclasses", "datetime", "decimal",
        "email.message", "functools", "hashlib", "hmac", "html", "http.client", "inspect", "io", "json", "logging",
        "math", "pathlib", "random", "re", "secrets", "shutil", "sqlite3", "ssl", "statistics", "string",
        "subprocess", "tempfile", "threading", "traceback", "typing", "urllib.parse", "urllib.request", "uuid",
        "zoneinfo")


def main() -> int:
    server = socket.socket(fileno=int(sys.argv[1]))
    server.set_inheritable(False)
    _warm_up()
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    os.set_blocking(wake_read, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the host ends it, by closing the socket
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    live: set[int] = set()
    while True:
        ready, _, _ = select.select([server, wake_read], [], [])
        if wake_read in ready:
            os.read(wake_read, 4096)
            _reap(server, live)
        if server in ready:
            frame, fds = _receive(server)
            if frame is None:
                return _end(live)
            child = _obey(server, live, frame, fds)
            if child is not None:
                server.close()
                os.close(wake_read)
                os.close(wake_write)
                return _become_worker(child)


def _warm_up() -> None:
    for name in WARM:
        try:
            __import__(name)
        except ImportError:
            pass  # a slim interpreter lacks some; a function that needs one is told at its import
    from . import worker  # noqa: F401
    gc.collect()
    gc.freeze()  # keeps the collector from touching, and so copying, the pages that workers share


def _receive(server: socket.socket) -> tuple[bytes | None, list[int]]:
    try:
        frame, fds, _, _ = socket.recv_fds(server, FRAME.size, 3)
        while frame and len(frame) < FRAME.size:
            frame += server.recv(FRAME.size - len(frame))
    except ConnectionError:
        return None, []
    return (frame or None), list(fds)


def _obey(server: socket.socket, live: set[int], frame: bytes, fds: list[int]) -> list[int] | None:
    """Carries a command out; in a forked child, the descriptors to work with."""
    operation, pid = FRAME.unpack(frame)
    if operation == SPAWN:
        try:
            child = os.fork()
        except OSError as error:
            _say(server, {"spawned": None, "reason": f"cannot fork: {error.strerror}"})
            child = -1
        if child == 0:
            return fds
        for fd in fds:
            os.close(fd)
        if child > 0:
            live.add(child)
            _say(server, {"spawned": child})
    elif pid in live:
        _signal(pid, signal.SIGTERM if operation == TERM else signal.SIGKILL, group=operation == KILL)
    return None


def _signal(pid: int, number: signal.Signals, group: bool) -> None:
    """Signals a child that has not been reaped, so that its id is certainly still its own."""
    if group:
        try:
            os.killpg(pid, number)
        except (ProcessLookupError, PermissionError):
            pass  # it has not made its own group yet, or the group is gone
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _reap(server: socket.socket, live: set[int]) -> None:
    while live:
        try:
            done = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if done is None:
            return
        # What the worker forked dies with it, before its process group's id can be anybody else's.
        _signal(done.si_pid, signal.SIGKILL, group=True)
        _, status = os.waitpid(done.si_pid, 0)
        live.discard(done.si_pid)
        _say(server, {"exited": done.si_pid, "status": status})


def _say(server: socket.socket, message: dict[str, object]) -> None:
    try:
        server.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        pass  # the host is gone; the next read says so


def _end(live: set[int]) -> int:
    for pid in live:
        _signal(pid, signal.SIGKILL, group=True)
    return 0


def _become_worker(fds: list[int]) -> int:
    from . import worker

    channel, out, err = fds
    os.setsid()
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.close(out)
    os.close(err)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    return worker.run(socket.socket(fileno=channel))


if __name__ == "__main__":
    sys.exit(main())

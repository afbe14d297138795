"""Starts, watches and ends workers: one for each loaded revision.

Owns processes, pipes and timers; never runs user code and never decides what to load.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Callable

from .logs import LogSink, WorkerLog
from .zygote import FRAME, KILL, SPAWN, TERM

WORKERS_MAX = 1024  # far above what a runner pod's memory holds
READ_BYTES = 64 * 1024  # one turn of the loop for one stream, so that a flood leaves others their turn
DRAIN_MAX_BYTES = 1024 * 1024  # what may wait in a dead worker's pipes (the system's largest pipe)
STATUS_MAX_BYTES = 16 * 1024  # a worker says `ready` or a reason of at most 500 characters
KILL_WAIT_S = 5.0  # a SIGKILLed process that is not reaped by then means the fork server is stuck
CLEAN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PASSED_ON = ("PATH", "HOME", "LANG", "TZ", "TMPDIR")  # of the host's own environment; nothing else is


@dataclass(frozen=True)
class Load:
    """A validated `load`."""

    id: int
    revision: str
    code: str
    handler: str | None
    env: dict[str, str]
    concurrency: int
    memory_bytes: int | None
    start_timeout_ms: int
    socket: str
    app: str
    fn: str


@dataclass
class Worker:
    """A process of ours; `state` is loading, ready or ending."""

    load: Load
    log: WorkerLog
    channel: socket.socket
    out: int
    err: int
    state: str = "loading"
    pid: int | None = None
    reason: str | None = None
    said: bytes = b""
    ended_by: list[tuple[str, int]] = field(default_factory=list)
    timers: list[asyncio.TimerHandle] = field(default_factory=list)


class Supervisor:
    """All workers of this host. Events go to `emit`, which may change with the runner."""

    def __init__(self, sink: LogSink) -> None:
        self.emit: Callable[[dict[str, Any]], None] = lambda _event: None
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        self._workers: dict[str, Worker] = {}
        self._unborn: deque[Worker] = deque()
        self._all_gone = asyncio.Event()
        self._all_gone.set()
        self._zygote = _Zygote(self._loop, self._on_zygote, self._on_zygote_lost)

    def load(self, load: Load) -> None:
        if load.revision in self._workers:
            return self._failed(load, "revision is already loaded", "")
        if len(self._workers) >= WORKERS_MAX:
            return self._failed(load, f"host runs {WORKERS_MAX} workers already", "")
        try:
            os.makedirs(os.path.dirname(load.socket) or ".", exist_ok=True)
            worker, ends = self._open(load)
        except OSError as error:
            return self._failed(load, f"cannot open pipes: {error.strerror}", "")
        self._workers[load.revision] = worker
        self._all_gone.clear()
        self._unborn.append(worker)
        self._zygote.spawn(ends)
        self._loop.add_reader(worker.channel, self._on_said, worker)
        self._loop.add_reader(worker.out, self._on_output, worker, "stdout", worker.out)
        self._loop.add_reader(worker.err, self._on_output, worker, "stderr", worker.err)
        worker.timers.append(self._loop.call_later(load.start_timeout_ms / 1000, self._on_start_timeout, worker))
        return None

    def unload(self, request_id: int, revision: str, grace_ms: int) -> None:
        worker = self._workers.get(revision)
        if worker is None:
            return self.emit({"event": "unloaded", "id": request_id, "revision": revision})
        worker.ended_by.append(("unloaded", request_id))
        worker.reason = worker.reason or "unloaded while it was loading"
        worker.state = "ending" if worker.state == "ready" else worker.state
        self._zygote.send(TERM, worker.pid)
        worker.timers.append(self._loop.call_later(grace_ms / 1000, self._kill, worker))
        return None

    def kill(self, request_id: int, revision: str) -> None:
        worker = self._workers.get(revision)
        if worker is None:
            return self.emit({"event": "killed", "id": request_id, "revision": revision})
        worker.ended_by.append(("killed", request_id))
        worker.reason = worker.reason or "killed while it was loading"
        worker.state = "ending" if worker.state == "ready" else worker.state
        return self._kill(worker)

    async def end_all(self, grace_s: float) -> None:
        """Ends every worker: SIGTERM and grace when there is one, else SIGKILL. Tells nobody."""
        self.emit = lambda _event: None
        for worker in list(self._workers.values()):
            worker.reason = worker.reason or "host ended it"
            if grace_s > 0:
                self._zygote.send(TERM, worker.pid)
                worker.timers.append(self._loop.call_later(grace_s, self._kill, worker))
            else:
                self._kill(worker)
        await self._all_gone.wait()

    def close(self) -> None:
        self._zygote.close()

    def reap(self) -> None:
        """Takes the exit status of every child: the fork server, and strays when the host is process 1."""
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return

    def _open(self, load: Load) -> tuple[Worker, list[int]]:
        ours, theirs = socket.socketpair()
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        for fd in (out_read, err_read):
            os.set_blocking(fd, False)
        labels = {"app": load.app, "fn": load.fn, "revision": load.revision}
        worker = Worker(load, WorkerLog(self._sink, labels), ours, out_read, err_read)
        return worker, [theirs.detach(), out_write, err_write]

    def _on_zygote(self, message: dict[str, Any]) -> None:
        if "spawned" in message:
            worker = self._unborn.popleft()
            if message["spawned"] is None:
                worker.reason = message["reason"]
                return self._on_exit(worker, None)
            return self._on_born(worker, message["spawned"])
        for worker in self._workers.values():
            if worker.pid == message["exited"]:
                return self._on_exit(worker, message["status"])
        return None

    def _on_born(self, worker: Worker, pid: int) -> None:
        worker.pid = pid
        if worker.reason is not None:  # it was to end before it began
            return self._kill(worker)
        spec = _spec(worker.load)
        worker.channel.setblocking(True)
        worker.channel.settimeout(KILL_WAIT_S)
        try:
            worker.channel.sendall(json.dumps(spec).encode() + b"\n")
        except OSError:
            pass  # it died at once; its exit is on its way
        worker.channel.setblocking(False)
        return None

    def _on_said(self, worker: Worker) -> None:
        try:
            data = worker.channel.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        worker.said += data
        if not data or len(worker.said) > STATUS_MAX_BYTES:
            self._loop.remove_reader(worker.channel)
            return
        if worker.state == "loading" and b"\n" in worker.said:
            self._on_status(worker, worker.said.split(b"\n", 1)[0])

    def _on_status(self, worker: Worker, line: bytes) -> None:
        try:
            message = json.loads(line)
            event = message["event"]
        except (ValueError, KeyError, TypeError):
            event, message = "failed", {"reason": "worker sent nonsense"}
        if event == "failed":
            worker.reason = worker.reason or str(message.get("reason"))
            self._kill_later(worker)
        elif worker.reason is None:
            worker.state = "ready"
            self._cancel_timers(worker)
            load = worker.load
            self.emit({"event": "loaded", "id": load.id, "revision": load.revision, "pid": worker.pid})

    def _on_output(self, worker: Worker, name: str, fd: int) -> None:
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return
        if data:
            worker.log.feed(name, data)
        else:
            self._loop.remove_reader(fd)

    def _on_start_timeout(self, worker: Worker) -> None:
        if worker.state == "loading":
            worker.reason = worker.reason or f"loading took longer than {worker.load.start_timeout_ms} ms"
            self._kill(worker)

    def _kill(self, worker: Worker) -> None:
        if worker.pid is not None:
            self._zygote.send(KILL, worker.pid)
        worker.timers.append(self._loop.call_later(KILL_WAIT_S, self._on_kill_timeout, worker))

    def _kill_later(self, worker: Worker) -> None:
        """A worker that said `failed` ends by itself; user threads may keep it from that."""
        worker.timers.append(self._loop.call_later(0.2, self._kill, worker))

    def _on_kill_timeout(self, worker: Worker) -> None:
        if self._workers.get(worker.load.revision) is worker:
            self._zygote.restart()

    def _on_exit(self, worker: Worker, status: int | None) -> None:
        self._cancel_timers(worker)
        for name, fd in (("stdout", worker.out), ("stderr", worker.err)):
            self._drain(worker, name, fd)
        if worker.state == "loading" and worker.reason is None:
            self._on_said(worker)  # its last words may still be unread
        worker.log.finish()
        self._loop.remove_reader(worker.channel)
        worker.channel.close()
        try:
            os.unlink(worker.load.socket)
        except OSError:
            pass  # it never came to listen, or removed its socket itself
        del self._workers[worker.load.revision]
        self._report(worker, status)
        if not self._workers:
            self._all_gone.set()

    def _report(self, worker: Worker, status: int | None) -> None:
        load, tail, (code, name) = worker.load, worker.log.tail(), _exit_of(status)
        calls = {"calls": left} if (left := worker.log.of_calls()) else {}
        if worker.state == "loading":
            self._failed(load, worker.reason or f"worker ended while loading: {_words(code, name)}", tail)
        elif worker.state == "ready":
            exit_ = {"revision": load.revision, "code": code, "signal": name, "log": tail}
            self.emit({"event": "exited", **exit_, **calls})
        for event, request_id in worker.ended_by:
            self.emit({"event": event, "id": request_id, "revision": load.revision, **calls})

    def _drain(self, worker: Worker, name: str, fd: int) -> None:
        self._loop.remove_reader(fd)
        read = 0
        try:
            while read < DRAIN_MAX_BYTES and (data := os.read(fd, READ_BYTES)):
                worker.log.feed(name, data)
                read += len(data)
        except BlockingIOError:
            pass  # somebody who left the process group still holds the pipe
        os.close(fd)

    def _cancel_timers(self, worker: Worker) -> None:
        for timer in worker.timers:
            timer.cancel()
        worker.timers.clear()

    def _failed(self, load: Load, reason: str, log: str) -> None:
        self.emit({"event": "failed", "id": load.id, "revision": load.revision, "reason": reason, "log": log})

    def _on_zygote_lost(self) -> None:
        """The fork server is gone, and with it the parent of every worker: all of them end."""
        self._unborn.clear()
        for worker in list(self._workers.values()):
            if worker.pid is not None:
                for end in (os.killpg, os.kill):
                    try:
                        end(worker.pid, signal.SIGKILL)
                    except (ProcessLookupError, PermissionError):
                        pass
            worker.reason = worker.reason or "fork server died"
            self._on_exit(worker, None)


class _Zygote:
    """The fork server process and the socket to it; started anew when it dies."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_message: Callable[[dict[str, Any]], None],
                 on_lost: Callable[[], None]) -> None:
        self._loop = loop
        self._on_message = on_message
        self._on_lost = on_lost
        self._closed = False
        self._start()

    def spawn(self, ends: list[int]) -> None:
        try:
            socket.send_fds(self._socket, [FRAME.pack(SPAWN, 0)], ends)
        except OSError:
            pass  # it has just died: its loss fails every load
        for fd in ends:
            os.close(fd)

    def send(self, operation: bytes, pid: int | None) -> None:
        if pid is None:
            return
        try:
            self._socket.sendall(FRAME.pack(operation, pid))
        except OSError:
            pass  # as above

    def restart(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self._closed = True
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _start(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(KILL_WAIT_S)
        self._buffer = b""
        package_root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        code = f"import sys; sys.path.insert(0, {package_root!r}); from funcatron_host.zygote import main; " \
               "code = main(); sys.argv = ['']; sys.exit(code)"
        self._process = subprocess.Popen(
            [sys.executable, "-B", "-u", "-P", "-c", code, str(theirs.fileno())],
            env=clean_environment(os.environ), stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
            start_new_session=True)
        theirs.close()
        self._loop.add_reader(self._socket, self._on_readable)

    def _on_readable(self) -> None:
        try:
            data = self._socket.recv(READ_BYTES)
        except OSError:
            data = b""
        if not data:
            return self._lost()
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            self._on_message(json.loads(line))
        return None

    def _lost(self) -> None:
        self._loop.remove_reader(self._socket)
        self._socket.close()
        self._process.kill()
        if not self._closed:
            self._start()
            self._on_lost()


def clean_environment(own: Any) -> dict[str, str]:
    env = {"PATH": CLEAN_PATH, "HOME": "/tmp", "LANG": "C.UTF-8", "TZ": "UTC",
           "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    env.update({name: own[name] for name in PASSED_ON if own.get(name)})
    return env


def _spec(load: Load) -> dict[str, Any]:
    env = dict(load.env)
    env.update({"FN_APP_NAME": load.app, "FN_FN_NAME": load.fn, "FN_APP_ID": load.env.get("FN_APP_ID", load.app),
                "FN_FN_ID": load.env.get("FN_FN_ID", load.fn), "FN_FORMAT": "http-stream",
                "FN_LISTENER": f"unix:{load.socket}", "FN_TYPE": "sync"})
    if load.memory_bytes:
        env["FN_MEMORY"] = str(max(1, load.memory_bytes // (1024 * 1024)))
    return {"code": load.code, "handler": load.handler, "env": env, "concurrency": load.concurrency,
            "memoryBytes": load.memory_bytes, "socket": load.socket}


def _exit_of(status: int | None) -> tuple[int | None, str | None]:
    if status is None:
        return None, None
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return code, None
    try:
        return None, signal.Signals(-code).name
    except ValueError:
        return None, f"SIG{-code}"


def _words(code: int | None, name: str | None) -> str:
    if name:
        return name
    return "unknown" if code is None else f"exit code {code}"

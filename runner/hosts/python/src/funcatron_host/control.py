"""The control socket: one runner at a time, one JSON object a line (docs/hosts.md).

Validates what a runner asks for, once, and hands it to the supervisor.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import re
import stat
from typing import Any

from . import WIRE
from .supervisor import Load, Supervisor

LINE_MAX_BYTES = 1024 * 1024
UNSENT_MAX_BYTES = 4 * 1024 * 1024  # events that a runner does not read; beyond it is taken for dead
CLOSE_WAIT_S = 1.0  # an aborted connection's task ends in the next turns of the loop
GRACE_MAX_MS = 600_000  # no drain is longer than the longest function timeout
START_TIMEOUT_MAX_MS = 600_000
CONCURRENCY_MAX = 1024
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}\Z")


class InvalidRequest(Exception):
    """A line that is JSON but no request; Display is the reason sent back."""


class Control:
    """Serves the control socket; the newest connection is the runner."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._writer: asyncio.StreamWriter | None = None
        self._turn = asyncio.Lock()
        self._serving: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def listen(self, path: str, mode: int) -> None:
        try:
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                os.unlink(path)
        except FileNotFoundError:
            pass
        old_umask = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._on_connect, path, limit=LINE_MAX_BYTES)
        finally:
            os.umask(old_umask)
        os.chmod(path, mode)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        if self._writer is not None:
            self._writer.transport.abort()
        if self._serving:
            await asyncio.wait(self._serving, timeout=CLOSE_WAIT_S)

    async def _on_connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._writer is not None:
            self._writer.transport.abort()  # the old runner is dead or has been started again
        self._writer = writer
        task = asyncio.current_task()
        assert task is not None, "asyncio runs connection callbacks in tasks"
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        async with self._turn:
            await self._supervisor.end_all(0)
            if self._writer is not writer:
                return  # a newer one came while the workers of the old one ended
            self._supervisor.emit = lambda event: self._send(writer, event)
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            pass
        finally:
            writer.transport.abort()
            if self._writer is writer:
                self._writer = None
                self._supervisor.emit = lambda _event: None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until the connection ends; a line that is too long or no JSON object ends it."""
        while True:
            request = json.loads(await reader.readuntil(b"\n"))
            if not isinstance(request, dict):
                raise ValueError("not an object")
            try:
                self._obey(request)
            except InvalidRequest as error:
                self._send(writer, {"event": "error", "id": request.get("id"), "reason": str(error)})

    def _obey(self, request: dict[str, Any]) -> None:
        operation = request.get("op")
        if operation == "hello":
            self._hello(request)
        elif operation == "load":
            self._supervisor.load(parse_load(request))
        elif operation == "unload":
            grace_ms = _int(request, "graceMs", 0, GRACE_MAX_MS)
            self._supervisor.unload(_id(request), _revision(request), grace_ms)
        elif operation == "kill":
            self._supervisor.kill(_id(request), _revision(request))
        else:
            raise InvalidRequest("unknown op")

    def _hello(self, request: dict[str, Any]) -> None:
        if request.get("wire") != WIRE:
            raise InvalidRequest(f"wire version is not {WIRE}")
        self._supervisor.emit({"event": "hello", "wire": WIRE, "runtime": "python",
                               "version": platform.python_version()})

    def _send(self, writer: asyncio.StreamWriter, event: dict[str, Any]) -> None:
        if writer.is_closing():
            return
        if writer.transport.get_write_buffer_size() > UNSENT_MAX_BYTES:
            writer.transport.abort()
            return
        writer.write(json.dumps(event, separators=(",", ":")).encode() + b"\n")


def parse_load(request: dict[str, Any]) -> Load:
    handler = request.get("handler")
    if handler is not None and not isinstance(handler, str):
        raise InvalidRequest("handler is not a string")
    env = {} if request.get("env") is None else request["env"]
    if not isinstance(env, dict) or not all(_is_variable(name, value) for name, value in env.items()):
        raise InvalidRequest("env is not an object of variables")
    memory = request.get("memoryBytes")
    return Load(
        id=_id(request), revision=_revision(request), code=_text(request, "code"), handler=handler or None, env=env,
        concurrency=_int({"concurrency": 1, **request}, "concurrency", 1, CONCURRENCY_MAX),
        memory_bytes=None if memory is None else _int(request, "memoryBytes", 1, 1 << 50),
        start_timeout_ms=_int({"startTimeoutMs": 5000, **request}, "startTimeoutMs", 1, START_TIMEOUT_MAX_MS),
        socket=_text(request, "socket"), app=_text(request, "app"), fn=_text(request, "fn"))


def _is_variable(name: Any, value: Any) -> bool:
    return isinstance(value, str) and bool(name) and "=" not in name and "\0" not in name + value


def _id(request: dict[str, Any]) -> int:
    return _int(request, "id", 0, (1 << 63) - 1)


def _revision(request: dict[str, Any]) -> str:
    revision = _text(request, "revision")
    if not _REVISION.match(revision):
        raise InvalidRequest("revision is not a name")
    return revision


def _text(request: dict[str, Any], name: str) -> str:
    value = request.get(name)
    if not isinstance(value, str) or not value or "\0" in value:
        raise InvalidRequest(f"{name} is not a string")
    return value


def _int(request: dict[str, Any], name: str, low: int, high: int) -> int:
    value = request.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidRequest(f"{name} is not a number between {low} and {high}")
    return value

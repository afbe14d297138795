"""One worker: a forked process that has one revision loaded and answers its calls.

Runs user code. Never returns to the fork server's loop, and tells the host only `ready` or `failed`.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import os
import resource
import selectors
import signal
import socket
import stat
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from . import fdk_shim
from .calls import Answer, Context, InvalidResult, answer_failure, deadline_of, with_log
from .handlers import Handler, HandlerError, UnknownOperation, load_handler
from .http_stream import BadRequest, Connection, Request
from .pieces import END, Pieces, PiecesFailed, is_source
from .streams import CallOutput, Streams, current_call

SOCKET_PATH_MAX_BYTES = 107  # sockaddr_un
LISTEN_BACKLOG = 128
CONNECTIONS_EXTRA = 16  # beyond one for each call: a runner's probes and reconnects
REASON_MAX_CHARS = 500  # fits a condition's message beside the log
SPEC_MAX_BYTES = 2 * 1024 * 1024  # a control line, once decoded and encoded again
THREAD_STACK_BYTES = 1024 * 1024  # 8 MiB each, the default, would count against the memory limit
OOM_SCORE = "500"  # the kernel should choose a worker before the host


def run(channel: socket.socket) -> int:
    """Loads what the channel's first line asks for and serves it until SIGTERM; the exit code."""
    spec = json.loads(_read_line(channel))
    streams = Streams(spec["concurrency"])
    streams.install()
    _enter(spec)
    try:
        handler = load_handler(spec["handler"], spec["code"])
        listener = _listen(spec["socket"])
    except BaseException as error:  # user code may raise anything, SystemExit included
        _print_trace(error)
        streams.end(streams.owner())
        _tell(channel, {"event": "failed", "reason": reason_of(error)})
        return 1
    server = _Server(handler, listener, streams, spec["concurrency"])
    _tell(channel, {"event": "ready"})
    server.serve()
    streams.end(streams.owner())
    return 0


def reason_of(error: BaseException) -> str:
    text = str(error).strip()
    if isinstance(error, HandlerError):
        return text[:REASON_MAX_CHARS]
    name = type(error).__name__
    return (f"{name}: {text}" if text else name)[:REASON_MAX_CHARS]


def _enter(spec: dict[str, Any]) -> None:
    os.environ.update(spec["env"])
    time.tzset()
    sys.path[:0] = [p for p in spec["env"].get("PYTHONPATH", "").split(os.pathsep) if p]
    fdk_shim.install()
    os.chdir(spec["code"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.stack_size(THREAD_STACK_BYTES)
    if spec["memoryBytes"] and sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (spec["memoryBytes"], spec["memoryBytes"]))
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(OOM_SCORE)
    except OSError:
        pass  # not Linux, or /proc is read-only: a preference only


def _listen(path: str) -> socket.socket:
    if len(os.fsencode(path)) > SOCKET_PATH_MAX_BYTES:
        raise HandlerError(f"socket path is longer than {SOCKET_PATH_MAX_BYTES} bytes")
    try:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)
    except FileNotFoundError:
        pass
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    os.chmod(path, 0o666)
    listener.listen(LISTEN_BACKLOG)
    return listener


def _read_line(channel: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        chunk = channel.recv(64 * 1024)
        if not chunk or len(data) > SPEC_MAX_BYTES:
            raise SystemExit(1)
        data += chunk
    return data


def _tell(channel: socket.socket, message: dict[str, Any]) -> None:
    try:
        channel.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        pass  # the host is gone and the fork server is about to end this process


def _print_trace(error: BaseException) -> None:
    """The trace without the host's own frames, which say nothing to a function's author."""
    try:
        trace = error.__traceback__
        here = os.path.dirname(__file__)
        while trace is not None and trace.tb_frame.f_code.co_filename.startswith((here, "<frozen importlib")):
            trace = trace.tb_next
        if trace is None and isinstance(error, HandlerError):
            print(error, file=sys.stderr)
            return
        traceback.print_exception(type(error), error, trace)
    except BaseException:  # no memory left to print, or an exception whose __str__ raises
        print(f"{type(error).__name__} (its trace could not be printed)", file=sys.stderr)


class _Server:
    """Answers calls: in the main thread when one runs at a time, in a thread for each connection otherwise."""

    def __init__(self, handler: Handler, listener: socket.socket, streams: Streams, concurrency: int) -> None:
        self._handler = handler
        self._listener = listener
        self._streams = streams
        self._serial = concurrency == 1
        self._slots = threading.BoundedSemaphore(concurrency)
        self._connections_max = concurrency + CONNECTIONS_EXTRA
        self._connections = 0
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._running = 0
        self._stopping = False
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None

    def serve(self) -> None:
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_term)
        if self._handler.is_async:
            self._start_loop()
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(wake_read, selectors.EVENT_READ)
            while not self._stopping:
                for key, _ in selector.select():
                    self._on_ready(selector, key.fileobj)
        self._listener.close()
        self._wait_for_calls()

    def _on_term(self, _signal: int, _frame: object) -> None:
        self._stopping = True

    def _on_ready(self, selector: selectors.BaseSelector, ready: Any) -> None:
        if ready is self._listener:
            self._accept(selector)
        elif isinstance(ready, Connection):
            if not self._serve_one(ready):
                selector.unregister(ready)
                self._close(ready)
        elif isinstance(ready, int):
            os.read(ready, 4096)

    def _accept(self, selector: selectors.BaseSelector) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            self._stopping = self._stopping or self._listener.fileno() < 0
            return
        with self._lock:
            self._connections += 1
            too_many = self._connections > self._connections_max
        connection = Connection(sock)
        if too_many:
            self._close(connection)
        elif self._serial:
            selector.register(connection, selectors.EVENT_READ)
        else:
            threading.Thread(target=self._serve_connection, args=(connection,), daemon=True).start()

    def _close(self, connection: Connection) -> None:
        connection.close()
        with self._lock:
            self._connections -= 1

    def _serve_connection(self, connection: Connection) -> None:
        try:
            while connection.wait_forever() and self._serve_one(connection):
                pass
        finally:
            self._close(connection)

    def _serve_one(self, connection: Connection) -> bool:
        """Reads and answers requests until nothing is left in the buffer; False closes the connection."""
        try:
            while True:
                request = connection.read_request()
                if request is None:
                    return False
                with self._slots, self._counted():
                    keep_alive = self._answer(connection, request) and request.keep_alive
                if not keep_alive or not connection.has_buffered():
                    return keep_alive
        except BadRequest as error:
            try:
                connection.write(answer_failure(error.status, str(error)), False)
            except OSError:
                pass
            return False
        except OSError:
            return False

    def _answer(self, connection: Connection, request: Request) -> bool:
        """Answers one request; False where its answer broke off, and the connection with it."""
        if request.target != "/call" or request.method != "POST":
            connection.write(answer_failure(404, "only POST /call is served"), request.keep_alive)
            return True
        deadline = deadline_of(request)
        if deadline is not None and deadline <= time.time():
            connection.write(answer_failure(504, "deadline had passed before the call began"), request.keep_alive)
            return True
        call = self._streams.begin(request.header("fn-call-id", "") or "", request.header("fn-log") == "keep")
        try:
            answer = self._run(request, deadline, call)
            if isinstance(answer.body, Pieces):
                return self._stream(connection, answer, answer.body, request.keep_alive)
        finally:
            self._leave_if_forked()
            self._streams.end(call)
        connection.write(with_log(answer, call.kept()), request.keep_alive)
        return True

    def _stream(self, connection: Connection, answer: Answer, pieces: Pieces, keep_alive: bool) -> bool:
        self._leave_if_forked()
        try:
            connection.write(answer, keep_alive)
            return True
        except PiecesFailed as error:
            self._leave_if_forked()
            _print_trace(error.__cause__ or error)
            return False
        finally:
            try:
                pieces.close()
            except BaseException as error:  # a generator may raise at its close as well
                _print_trace(error)

    def _leave_if_forked(self) -> None:
        if os.getpid() != self._pid:
            os._exit(0)  # user code forked and came back here: only the parent may answer

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self._running += 1
        try:
            yield
        finally:
            with self._idle:
                self._running -= 1
                self._idle.notify_all()

    def _run(self, request: Request, deadline: float | None, call: CallOutput) -> Answer:
        try:
            entry = self._handler.find(request.header("fn-operation-id"))
            context = Context(request, os.environ)
            result = entry.call(request, context)
            if inspect.isawaitable(result):
                result = self._await(result, deadline, call)
            answer = entry.answer(context, self._with_pieces(result, deadline, call))
        except (InvalidResult, UnknownOperation) as error:
            print(error, file=sys.stderr)
            answer = answer_failure(502, str(error)[:REASON_MAX_CHARS])
        except BaseException as error:  # whatever user code raises ends its call, never the worker
            if os.getpid() == self._pid:
                _print_trace(error)
            answer = answer_failure(502, f"function failed: {type(error).__name__}")
        if deadline is not None and deadline <= time.time():
            return answer_failure(504, "deadline passed while the function ran")
        return answer

    def _with_pieces(self, result: Any, deadline: float | None, call: CallOutput) -> Any:
        """What a function returned, with a generator in it ready to be read."""
        if isinstance(result, Mapping) and is_source(result.get("body")):
            return {**result, "body": self._pieces(result["body"], deadline, call)}
        return self._pieces(result, deadline, call) if is_source(result) else result

    def _pieces(self, source: Any, deadline: float | None, call: CallOutput) -> Pieces:
        if not isinstance(source, AsyncIterator):
            return Pieces(lambda: next(source, END), getattr(source, "close", lambda: None))
        bound = [deadline]  # the first piece begins the answer; the rest may take longer

        def take() -> Any:
            return self._await(anext(source, END), bound.pop() if bound else None, call)

        def close() -> None:
            if hasattr(source, "aclose"):
                self._await(source.aclose(), None, call)

        return Pieces(take, close)

    def _await(self, result: Any, deadline: float | None, call: CallOutput) -> Any:
        async def bounded() -> Any:
            current_call.set(call)
            async with asyncio.timeout(None if deadline is None else max(0.0, deadline - time.time())):
                return await result

        if self._loop is None:
            self._start_loop()
        assert self._loop is not None
        if self._serial:
            return self._loop.run_until_complete(bounded())
        return asyncio.run_coroutine_threadsafe(bounded(), self._loop).result()

    def _start_loop(self) -> None:
        with self._lock:
            if self._loop is not None:
                return
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        if not self._serial:
            threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def _wait_for_calls(self) -> None:
        """Calls that run may finish; the host ends the process when the grace is over."""
        with self._idle:
            self._idle.wait_for(lambda: self._running == 0)

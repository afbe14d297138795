"""The worker's stdout and stderr: text in, lines out that say which call wrote them.

A line that starts with NUL is a mark: it names the call to which the following lines belong,
or nobody when it is empty. The host reads the marks; see `logs.py`.
Never performs I/O but on the descriptor it was given.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from contextvars import ContextVar

# A line without an end is written out at this size, so that a partial line cannot grow without bound.
PARTIAL_MAX_CHARS = 16 * 1024
# What is kept of a call's output for whoever asked for it: its end, as the call ledger keeps it.
KEPT_MAX_BYTES = 16 * 1024

current_call: ContextVar["CallOutput | None"] = ContextVar("funcatron_call", default=None)


class CallOutput:
    """What one call has written and not yet ended with a newline, by descriptor; and the end of it, where asked for."""

    __slots__ = ("call_id", "partial", "_kept")

    def __init__(self, call_id: str, keep: bool = False) -> None:
        self.call_id = call_id
        self.partial: dict[int, str] = {}
        self._kept = bytearray() if keep else None

    def wrote(self, lines: str) -> None:
        """Keeps the end of it. Two streams may write at once: each step here is one of the interpreter's."""
        if self._kept is None:
            return
        self._kept += lines[-KEPT_MAX_BYTES:].encode("utf-8", "backslashreplace")
        if len(self._kept) > 2 * KEPT_MAX_BYTES:
            del self._kept[:-KEPT_MAX_BYTES]

    def kept(self) -> bytes | None:
        """Whole characters; None where nobody asked."""
        if self._kept is None:
            return None
        return bytes(self._kept[-KEPT_MAX_BYTES:]).decode("utf-8", "ignore").encode()


class LogStream(io.TextIOBase):
    """A text stream whose writes reach the descriptor as whole, marked lines."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, fd: int, shared: "Streams") -> None:
        super().__init__()
        self._fd = fd
        self._shared = shared
        self._lock = threading.Lock()
        self._marked = ""
        self.buffer = _Bytes(self)

    def fileno(self) -> int:
        return self._fd

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        call = self._shared.owner()
        with self._lock:
            pending = call.partial.get(self._fd, "") + text.replace("\0", "\\0")
            end = pending.rfind("\n") + 1
            if len(pending) - end > PARTIAL_MAX_CHARS:
                pending, end = pending + "\n", len(pending) + 1
            call.partial[self._fd] = pending[end:]
            if end:
                self._emit(call.call_id, pending[:end])
                call.wrote(pending[:end])
        return len(text)

    def flush(self) -> None:
        """Lines leave as they end; a partial one waits for its end or that of its call."""

    def mark(self, call_id: str) -> None:
        """Names the call to which what others write straight to the descriptor belongs."""
        with self._lock:
            self._emit(call_id, "")

    def end(self, call: CallOutput) -> None:
        """Writes the call's unfinished line and takes its mark back."""
        with self._lock:
            rest = call.partial.pop(self._fd, "")
            if rest:
                self._emit(call.call_id, rest + "\n")
                call.wrote(rest + "\n")
            if self._marked and self._marked == call.call_id:
                self._emit("", "")

    def after_fork(self) -> None:
        self._lock = threading.Lock()

    def _emit(self, call_id: str, lines: str) -> None:
        if call_id != self._marked:
            lines = f"\0{call_id}\n{lines}"
            self._marked = call_id
        _write_all(self._fd, lines.encode("utf-8", "backslashreplace"))


class _Bytes(io.RawIOBase):
    """`sys.stdout.buffer` for programs that write bytes."""

    def __init__(self, text: LogStream) -> None:
        super().__init__()
        self._text = text

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._text.fileno()

    def write(self, data) -> int:  # type: ignore[override]
        raw = bytes(data)
        self._text.write(raw.decode("utf-8", "backslashreplace"))
        return len(raw)


class Streams:
    """Both streams of a worker and the call that runs when only one may."""

    def __init__(self, concurrency: int) -> None:
        self._serial = concurrency == 1
        self._nobody = CallOutput("")
        self._running: CallOutput | None = None
        self.out = LogStream(1, self)
        self.err = LogStream(2, self)

    def install(self) -> None:
        sys.stdout = sys.__stdout__ = self.out
        sys.stderr = sys.__stderr__ = self.err
        os.register_at_fork(after_in_child=self.out.after_fork)
        os.register_at_fork(after_in_child=self.err.after_fork)
        if self._serial:
            sys.addaudithook(self._audit)

    def owner(self) -> CallOutput:
        """The call that writes: by context, else the only one that can be running."""
        return current_call.get() or self._running or self._nobody

    def begin(self, call_id: str, keep: bool) -> CallOutput:
        call = CallOutput(call_id, keep)
        current_call.set(call)
        if self._serial:
            self._running = call
        return call

    def end(self, call: CallOutput) -> None:
        self.out.end(call)
        self.err.end(call)
        self._running = None
        current_call.set(None)

    def _audit(self, event: str, _args: object) -> None:
        # A program that the function starts writes to the descriptors itself: mark them before it does.
        if event in _STARTS_PROGRAM and self._running is not None:
            self.out.mark(self._running.call_id)
            self.err.mark(self._running.call_id)


_STARTS_PROGRAM = frozenset({"subprocess.Popen", "os.system", "os.posix_spawn", "os.fork", "os.forkpty"})


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view):]
        except OSError:
            return  # the host is gone, or user code closed the descriptor: output has nowhere to go

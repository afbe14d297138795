"""What workers write, as one JSON object a line on the host's own stdout.

Always drains, and bounds what it keeps: a line, a call's log, what waits for a slow reader of stdout.
Never blocks the host's loop.
"""

from __future__ import annotations

import collections
import json
import os
import re
import threading
import time
from datetime import datetime, timezone
from typing import Any, Callable

LINE_MAX_BYTES = 16 * 1024
CALL_MAX_BYTES = 1024 * 1024  # Fn's own limit for the log of a call
LINE_OVERHEAD_BYTES = 128  # what a line's JSON costs beside its text: floods of short lines count too
NOBODY_WINDOW_S = 60.0  # output that belongs to no call may fill the same bound once in this time
CALLS_MAX = 4096  # calls whose bytes are counted at once; the oldest is forgotten first
TAIL_MAX_BYTES = 1024
CALLS_TAIL_MAX_CHARS = 16 * 1024  # of the calls that run, together: what each had written when its worker ended
SINK_MAX_BYTES = 8 * 1024 * 1024  # waits for whoever reads the host's stdout, then is dropped
CUT = " [line cut]"

_CALL_ID = re.compile(r"[A-Za-z0-9._:-]{0,128}\Z")


class LogSink:
    """Writes lines from a thread of its own, so that a slow reader never holds up the host."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lines: collections.deque[bytes] = collections.deque()
        self._bytes = 0
        self._dropped = 0
        self._ready = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="log-sink", daemon=True)
        self._thread.start()

    def push(self, record: dict[str, Any]) -> None:
        line = json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        with self._ready:
            if self._bytes + len(line) > SINK_MAX_BYTES:
                self._dropped += 1
                return
            if self._dropped:
                self._append(_dropped_notice(self._dropped))
                self._dropped = 0
            self._append(line)
            self._ready.notify()

    def close(self, timeout_s: float) -> None:
        with self._ready:
            self._closed = True
            self._ready.notify()
        self._thread.join(timeout_s)

    def _append(self, line: bytes) -> None:
        self._lines.append(line)
        self._bytes += len(line)

    def _run(self) -> None:
        while True:
            with self._ready:
                self._ready.wait_for(lambda: self._lines or self._closed)
                if not self._lines:
                    return
                batch = b"".join(self._lines)
                self._lines.clear()
                self._bytes = 0
            view = memoryview(batch)
            try:
                while view:
                    view = view[os.write(self._fd, view):]
            except OSError:
                return  # nobody reads logs any more; the host itself goes on


def _dropped_notice(count: int) -> bytes:
    record = {"ts": timestamp(), "level": "warn", "stream": "host",
              "message": f"dropped {count} log lines: the reader of this host's output is too slow"}
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def timestamp() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Budget:
    """How much each call of one worker may still log."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._used: collections.OrderedDict[str, int] = collections.OrderedDict()
        self._nobody_since = clock()

    def spent(self, call: str) -> bool:
        if not call and self._clock() - self._nobody_since >= NOBODY_WINDOW_S:
            self._used.pop("", None)
        return self._used.get(call, 0) >= CALL_MAX_BYTES

    def take(self, call: str, size: int) -> bool:
        """Counts a line; True when it is the one that spends the budget."""
        if not call and call not in self._used:
            self._nobody_since = self._clock()
        used = self._used.pop(call, 0) + size
        self._used[call] = used
        if len(self._used) > CALLS_MAX:
            self._used.popitem(last=False)
        return used >= CALL_MAX_BYTES


class WorkerLog:
    """Both streams of one worker: marks in, records out, the last lines kept."""

    def __init__(self, sink: LogSink, labels: dict[str, str]) -> None:
        self._sink = sink
        self._labels = labels
        self._budget = Budget()
        self._tail: collections.deque[str] = collections.deque()
        self._tail_bytes = 0
        self._open: collections.deque[tuple[str, str]] = collections.deque()
        self._open_chars = 0
        self._streams = {name: _Stream() for name in ("stdout", "stderr")}

    def feed(self, name: str, chunk: bytes) -> None:
        stream = self._streams[name]
        if self._budget.spent(stream.call) and b"\0" not in chunk:
            stream.partial = b""
            return
        lines = (stream.partial + chunk).split(b"\n")
        stream.partial = lines.pop()
        for line in lines:
            self._line(name, stream, line)
        if len(stream.partial) > LINE_MAX_BYTES:
            # The rest of an endless line is dropped as it comes.
            keep = stream.partial[-1:] if stream.partial.endswith(b"\0") else b""
            if not stream.cut:
                self._line(name, stream, stream.partial)
            stream.cut, stream.partial = True, keep

    def finish(self) -> None:
        for name, stream in self._streams.items():
            if stream.partial:
                self._line(name, stream, stream.partial)
                stream.partial = b""

    def tail(self) -> str:
        return "\n".join(self._tail).encode()[-TAIL_MAX_BYTES:].decode("utf-8", "ignore")

    def of_calls(self) -> dict[str, str]:
        """The last lines of the calls that have not ended, by call."""
        lines: dict[str, list[str]] = {}
        for call, text in self._open:
            lines.setdefault(call, []).append(text)
        return {call: "\n".join(texts) + "\n" for call, texts in lines.items()}

    def _line(self, name: str, stream: "_Stream", line: bytes) -> None:
        text, nul, mark = line.partition(b"\0")
        was_cut, stream.cut = stream.cut, False
        if text and not was_cut:
            self._record(name, stream.call, text)
        if nul:
            call = mark.decode("utf-8", "replace")
            if _CALL_ID.match(call):
                if not call:
                    self._ended(stream.call)
                stream.call = call
            else:
                self._record(name, stream.call, mark)

    def _record(self, name: str, call: str, raw: bytes) -> None:
        if self._budget.spent(call):
            return
        text = raw[:LINE_MAX_BYTES].decode("utf-8", "replace").rstrip("\r")
        if len(raw) > LINE_MAX_BYTES:
            text += CUT
        if not text:
            return
        self._push("error" if name == "stderr" else "info", name, call, text)
        self._keep(call, text)
        if self._budget.take(call, len(raw) + LINE_OVERHEAD_BYTES):
            self._push("warn", "host", call, f"log limit of {CALL_MAX_BYTES} bytes reached, the rest is dropped")

    def _push(self, level: str, stream: str, call: str, message: str) -> None:
        record = {"ts": timestamp(), "level": level, **self._labels}
        if call:
            record["call"] = call
        record.update(stream=stream, message=message)
        self._sink.push(record)

    def _ended(self, call: str) -> None:
        self._open = collections.deque(line for line in self._open if line[0] != call)
        self._open_chars = sum(len(text) + 1 for _, text in self._open)

    def _keep(self, call: str, text: str) -> None:
        if call:
            self._open.append((call, text))
            self._open_chars += len(text) + 1
            while self._open_chars > CALLS_TAIL_MAX_CHARS and len(self._open) > 1:
                self._open_chars -= len(self._open.popleft()[1]) + 1
        text = text[-TAIL_MAX_BYTES:]
        self._tail.append(text)
        self._tail_bytes += len(text) + 1
        while self._tail_bytes - len(self._tail[0]) - 1 >= TAIL_MAX_BYTES:
            self._tail_bytes -= len(self._tail.popleft()) + 1


class _Stream:
    __slots__ = ("call", "partial", "cut")

    def __init__(self) -> None:
        self.call = ""
        self.partial = b""
        self.cut = False

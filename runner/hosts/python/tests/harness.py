"""Runs the real host and speaks to it as a runner does."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Callable, Iterator

SRC = Path(__file__).resolve().parent.parent / "src"
WAIT_S = 15.0


def eventually(condition: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> Any:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.005)
    raise AssertionError(f"not within {timeout_s} s: {what}")


class Runner:
    """A runner's control connection."""

    def __init__(self, path: str, hello: bool = True) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(WAIT_S)
        self.sock.connect(path)
        self._file = self.sock.makefile("rb")
        self.version = None
        if hello:
            self.send({"op": "hello", "wire": 1})
            self.version = self.read()

    def send(self, message: dict[str, Any]) -> None:
        self.sock.sendall(json.dumps(message).encode() + b"\n")

    def read(self) -> dict[str, Any] | None:
        line = self._file.readline()
        return json.loads(line) if line else None

    def close(self) -> None:
        self._file.close()
        self.sock.close()


class Host:
    """The host as a process, with a runner connected and its log lines at hand."""

    def __init__(self, directory: Path, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.directory = directory
        self.control = str(directory / "c.sock")
        self.log_path = directory / "host.log"
        self._next_id = 0
        self._errors_path = directory / "host.err"
        with open(self.log_path, "ab") as log, open(self._errors_path, "ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "funcatron_host", "--control", self.control, "--exit-with-stdin", *arguments],
                env={**os.environ, "PYTHONPATH": str(SRC), "PYTHONDONTWRITEBYTECODE": "1", **(env or {})},
                # With its stdin as a pipe the host ends when the tests do, however they end.
                stdin=subprocess.PIPE, stdout=log, stderr=errors)
        eventually(lambda: os.path.exists(self.control), "control socket")
        self.runner = eventually(self._connect, "control connection")

    def _connect(self) -> Runner | None:
        try:
            return Runner(self.control)
        except ConnectionRefusedError:
            return None

    def request(self, op: str, revision: str, **fields: Any) -> dict[str, Any]:
        self._next_id += 1
        self.runner.send({"op": op, "id": self._next_id, "revision": revision, **fields})
        answer = self.runner.read()
        assert answer is not None and answer.get("id") == self._next_id, answer
        return answer

    def socket_of(self, revision: str) -> str:
        return str(self.directory / f"{revision}.sock")

    def load(self, revision: str, files: dict[str, str] | str, handler: str | None = "handler",
             **fields: Any) -> dict[str, Any]:
        code = self.directory / f"code-{revision}"
        code.mkdir(exist_ok=True)
        for name, text in ({"func.py": files} if isinstance(files, str) else files).items():
            (code / name).parent.mkdir(parents=True, exist_ok=True)
            (code / name).write_text(text)
        request = {"code": str(code), "handler": handler, "env": {}, "concurrency": 1, "memoryBytes": None,
                   "startTimeoutMs": 10_000, "socket": self.socket_of(revision), "app": "shop", "fn": "orders"}
        return self.request("load", revision, **{**request, **fields})

    def loaded(self, revision: str, files: dict[str, str] | str, handler: str | None = "handler",
               **fields: Any) -> int:
        answer = self.load(revision, files, handler, **fields)
        assert answer["event"] == "loaded", answer
        return answer["pid"]

    def call(self, revision: str, body: bytes = b"", headers: dict[str, str] | None = None,
             call_id: str = "call-1", timeout_s: float = WAIT_S) -> "Reply":
        with connect(self.socket_of(revision), timeout_s) as connection:
            return post(connection, body, headers, call_id)

    def logs(self) -> list[dict[str, Any]]:
        whole = self.log_path.read_bytes().rpartition(b"\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def errors(self) -> str:
        """What the host itself wrote to its stderr: nothing, while it is well."""
        return self._errors_path.read_text()

    def messages(self, **fields: str) -> list[str]:
        return [line["message"] for line in self.logs() if all(line.get(k) == v for k, v in fields.items())]

    def reset(self) -> None:
        """A new runner for the next test: the host ends what the last one loaded."""
        self.runner.close()
        self.runner = Runner(self.control)
        os.truncate(self.log_path, 0)

    def stop(self) -> int:
        self.runner.close()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT_S)


class Reply:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.header = response.getheader
        self.headers = response.getheaders()
        self.body = response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@contextmanager
def connect(path: str, timeout_s: float = WAIT_S) -> Iterator[UnixConnection]:
    connection = UnixConnection(path, timeout_s)
    try:
        yield connection
    finally:
        connection.close()


def post(connection: UnixConnection, body: bytes = b"", headers: dict[str, str] | None = None,
         call_id: str = "call-1") -> Reply:
    base = {"Fn-Call-Id": call_id, "Fn-Deadline": deadline(30), "Fn-Intent": "httprequest",
            "Fn-Http-Method": "POST", "Fn-Http-Request-Url": "/orders/7?a=1&a=2&b="}
    base.update(headers or {})
    connection.request("POST", "/call", body, {k: v for k, v in base.items() if v is not None})
    return Reply(connection.getresponse())


def deadline(seconds: float) -> str:
    return (datetime.now(timezone.utc) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False

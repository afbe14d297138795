"""HTTP/1.1 on a Unix socket as Fn's containers speak it: reads `POST /call`, writes the answer.

Knows framing and bounds only; what a call means is `handlers.py`'s business.
"""

from __future__ import annotations

import re
import socket
from typing import NamedTuple

from .pieces import Pieces

HEAD_MAX_BYTES = 128 * 1024  # twice what the gateway lets through, since headers get a prefix
BODY_MAX_BYTES = 256 * 1024 * 1024  # the largest body anyone may put through memory here
READ_BYTES = 64 * 1024
PEER_SILENCE_S = 30.0  # a runner that stops in the middle of a request is gone

SEEN_NAMES_MAX = 512  # more than clients send in earnest; what is beyond is checked each time

_seen_names: dict[str, str] = {}
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 413: "Content Too Large", 502: "Bad Gateway",
            504: "Gateway Timeout"}


class BadRequest(Exception):
    """The peer broke HTTP or a bound; `status` says how to answer before the connection is closed."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Request(NamedTuple):
    method: str
    target: str
    headers: dict[str, list[str]]  # names in lower case
    body: bytes
    keep_alive: bool

    def header(self, name: str, default: str | None = None) -> str | None:
        values = self.headers.get(name)
        return values[0] if values else default


class Answer(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    body: bytes | Pieces


class Connection:
    """One keep-alive connection; reads one request at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = b""
        sock.settimeout(PEER_SILENCE_S)

    def fileno(self) -> int:
        return self.sock.fileno()

    def has_buffered(self) -> bool:
        return bool(self._buffer)

    def wait_forever(self) -> bool:
        """Blocks until the next request begins; False when the peer has closed."""
        if self._buffer:
            return True
        self.sock.settimeout(None)
        try:
            self._buffer = self.sock.recv(READ_BYTES)
        except OSError:
            return False
        self.sock.settimeout(PEER_SILENCE_S)
        return bool(self._buffer)

    def read_request(self) -> Request | None:
        """The next request, or None when the peer closed between requests."""
        head = self._read_head()
        if head is None:
            return None
        lines = head.split("\r\n")
        parts = lines[0].split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
            raise BadRequest(400, "malformed request line")
        headers = _parse_headers(lines[1:])
        connection = ",".join(headers.get("connection", [])).lower()
        keep_alive = "close" not in connection and (parts[2] != "HTTP/1.0" or "keep-alive" in connection)
        if "100-continue" in headers.get("expect", [""])[0].lower():
            self.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        return Request(parts[0], parts[1], headers, self._read_body(headers), keep_alive)

    def write(self, answer: Answer, keep_alive: bool) -> None:
        lines = [f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, 'Unknown')}"]
        lines += [f"{name}: {value}" for name, value in answer.headers]
        pieces = answer.body if isinstance(answer.body, Pieces) else None
        lines.append("Transfer-Encoding: chunked" if pieces else f"Content-Length: {len(answer.body)}")
        if not keep_alive:
            lines.append("Connection: close")
        head = "\r\n".join(lines).encode("utf-8") + b"\r\n\r\n"
        if pieces:
            self._write_pieces(head, pieces)
            return
        self.sock.sendall(head + answer.body if len(answer.body) <= READ_BYTES else head)
        if len(answer.body) > READ_BYTES:
            self.sock.sendall(answer.body)

    def _write_pieces(self, head: bytes, pieces: Pieces) -> None:
        """Each piece as it comes; one that fails leaves the answer without its end."""
        self.sock.settimeout(None)  # a slow reader is waited for: the runner knows when it is too slow
        for piece in pieces:
            self.sock.sendall(head + b"%x\r\n" % len(piece) + piece + b"\r\n")
            head = b""
        self.sock.sendall(head + b"0\r\n\r\n")
        self.sock.settimeout(PEER_SILENCE_S)

    def close(self) -> None:
        self.sock.close()

    def _more(self) -> bytes:
        data = self.sock.recv(READ_BYTES)
        if not data:
            raise ConnectionResetError("peer closed in the middle of a request")
        return data

    def _read_head(self) -> str | None:
        buffer = self._buffer
        while (end := buffer.find(b"\r\n\r\n")) < 0:
            if len(buffer) > HEAD_MAX_BYTES:
                raise BadRequest(413, "request head too large")
            data = self.sock.recv(READ_BYTES)
            if not data:
                if buffer:
                    raise ConnectionResetError("peer closed in the middle of a request")
                return None
            buffer += data
        self._buffer = buffer[end + 4:]
        return buffer[:end].decode("utf-8", "surrogateescape")

    def _read_body(self, headers: dict[str, list[str]]) -> bytes:
        coding = headers.get("transfer-encoding")
        lengths = headers.get("content-length")
        if coding:
            if lengths or [c.strip().lower() for c in ",".join(coding).split(",")] != ["chunked"]:
                raise BadRequest(400, "ambiguous body length")
            return self._read_chunked()
        if not lengths:
            return b""
        if len(lengths) != 1 or not re.fullmatch(r"[0-9]{1,12}", lengths[0]):
            raise BadRequest(400, "bad Content-Length")
        return self._read_exactly(int(lengths[0]))

    def _read_exactly(self, length: int) -> bytes:
        if length > BODY_MAX_BYTES:
            raise BadRequest(413, "body too large")
        if len(self._buffer) >= length:
            body, self._buffer = self._buffer[:length], self._buffer[length:]
            return body
        body = bytearray(self._buffer)
        self._buffer = b""
        while len(body) < length:
            body += self._more()
        self._buffer = bytes(body[length:])
        return bytes(body[:length])

    def _read_line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > HEAD_MAX_BYTES:
                raise BadRequest(400, "chunk line too long")
            self._buffer += self._more()
        line, self._buffer = self._buffer[:end], self._buffer[end + 2:]
        return line

    def _read_chunked(self) -> bytes:
        body = bytearray()
        while True:
            size = self._read_line().split(b";")[0].strip()
            if not re.fullmatch(rb"[0-9A-Fa-f]{1,8}", size):
                raise BadRequest(400, "bad chunk size")
            length = int(size, 16)
            if len(body) + length > BODY_MAX_BYTES:
                raise BadRequest(413, "body too large")
            if length == 0:
                while self._read_line():
                    pass  # trailers carry nothing that the contract names
                return bytes(body)
            body += self._read_exactly(length)
            if self._read_line():
                raise BadRequest(400, "bad chunk end")


def _parse_headers(lines: list[str]) -> dict[str, list[str]]:
    headers: dict[str, list[str]] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        lower = _seen_names.get(name) or _checked_name(name)
        if not colon or lower is None:
            raise BadRequest(400, "malformed header")
        headers.setdefault(lower, []).append(value.strip(" \t"))
    return headers


def _checked_name(name: str) -> str | None:
    """The name in lower case, or None; remembered, since the same few come with every call."""
    if not _TOKEN.match(name):
        return None
    if len(_seen_names) < SEEN_NAMES_MAX:
        _seen_names[name] = name.lower()
    return name.lower()


def is_header_name(name: str) -> bool:
    return bool(_TOKEN.match(name))


def is_header_value(value: str) -> bool:
    return not _CONTROL.search(value)

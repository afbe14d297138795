"""A plain HTTP/1.1 server on $PORT, as a user's image holds one, that does what the path says. Standard library only.

It writes the port it listens on to stdout, then a line for each thing that tests wait for.
"""

import base64
import hashlib
import http.server
import json
import os
import socket
import sys
import threading
import time

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def tell(*words):
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def any_method(self):
        tell("called", self.path)
        path = self.path.split("?")[0]
        if self.headers.get("Upgrade") and path.startswith("/ws"):
            self.close_connection = True
            return self.upgrade(path)
        body = self.read_body()
        if path.startswith("/status/"):
            return self.answer(int(path.rsplit("/", 1)[1]), b"as asked", {"X-Own": "1"})
        if path == "/large":
            return self.answer(200, bytes(i % 251 for i in range(1000)) * 300)
        if path == "/chunks":
            return self.chunks()
        if path == "/hang":
            return self.hang()
        if path == "/exit":
            os._exit(3)
        if path == "/break":
            self.close_connection = True
            return self.connection.shutdown(socket.SHUT_RDWR)
        if path == "/echo":
            return self.answer(200, body, {"Content-Type": self.headers.get("Content-Type", "none")})
        seen = {
            "method": self.command,
            "path": self.path,
            "headers": [[name.lower(), value] for name, value in self.headers.items()],
            "body": body.decode(),
        }
        return self.answer(200, json.dumps(seen).encode(), {"Content-Type": "application/json"})

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = any_method

    def read_body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while length := int(self.rfile.readline(), 16):
            body += self.rfile.read(length)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def answer(self, status, body, headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and status not in (204, 304):
            self.wfile.write(body)

    def chunks(self):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for word in (b"one", b"two", b""):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(word), word))
            time.sleep(0.05)

    def hang(self):
        """Until the caller closes the connection."""
        self.close_connection = True
        self.connection.recv(1)
        tell("hung-up", self.path)

    def upgrade(self, path):
        if path == "/ws/refused":
            return self.answer(403, b"not you")
        if path == "/ws/plain":
            return self.answer(200, b"no upgrade here")
        key = self.headers.get("Sec-WebSocket-Key", "").encode()
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest()).decode()
        self.send_response(101)
        self.send_header("Upgrade", "other" if path == "/ws/other" else "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", accept)
        if protocol := self.headers.get("Sec-WebSocket-Protocol"):
            self.send_header("Sec-WebSocket-Protocol", protocol.split(",")[0])
        self.end_headers()
        ways = {"/ws/raw": self.raw, "/ws/mute": self.mute, "/ws/bye": self.bye, "/ws/exit": self.leave}
        try:
            ways.get(path, self.frames)()
        except OSError:
            pass
        tell("closed", self.path)

    def frames(self):
        """Echoes frames (RFC 6455, section 5) until one closes."""
        while frame := self.read_frame():
            first, payload = frame
            self.write_frame(first, payload)
            if first & 0x0F == 8:
                return

    def read_frame(self):
        head = self.rfile.read(2)
        if len(head) < 2:
            return None
        length = head[1] & 0x7F
        if length == 126:
            length = int.from_bytes(self.rfile.read(2), "big")
        elif length == 127:
            length = int.from_bytes(self.rfile.read(8), "big")
        mask = self.rfile.read(4) if head[1] & 0x80 else b"\0\0\0\0"
        masked = self.rfile.read(length)
        return head[0], unmask(masked, mask)

    def write_frame(self, first, payload):
        length = len(payload)
        if length < 126:
            head = bytes([first, length])
        elif length < 1 << 16:
            head = bytes([first, 126]) + length.to_bytes(2, "big")
        else:
            head = bytes([first, 127]) + length.to_bytes(8, "big")
        self.wfile.write(head + payload)

    def raw(self):
        """Echoes bytes; after the other side's end, says so and ends."""
        while data := self.connection.recv(65536):
            self.wfile.write(data)
        self.wfile.write(b"that was all")

    def mute(self):
        """Does not end with the other side, but goes on until it is cut off."""
        self.wfile.write(b"mute")
        while self.connection.recv(65536):
            pass
        tell("ended", self.path)
        while True:
            self.wfile.write(b".")
            time.sleep(0.02)

    def bye(self):
        """Ends its own side at once and goes on reading."""
        self.wfile.write(b"bye")
        self.connection.shutdown(socket.SHUT_WR)
        read = 0
        while data := self.connection.recv(65536):
            read += len(data)
        tell("read", str(read))

    def leave(self):
        self.connection.recv(1)
        os._exit(3)


def unmask(data, mask):
    if mask == b"\0\0\0\0":
        return data
    whole = (mask * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(whole, "big")).to_bytes(len(data), "big")


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    server = Server(("127.0.0.1", int(os.environ["PORT"])), Handler)
    tell(str(server.server_address[1]))
    # Ends with whoever started it.
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    server.serve_forever()

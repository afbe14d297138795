"""Runs in the client pod: one JSON command on stdin, one JSON answer on stdout."""

import collections
import http.client
import json
import queue
import socket
import sys
import threading
import time
import urllib.parse

TIMEOUT_S = 60


def connect(url):
    parts = urllib.parse.urlsplit(url)
    path = parts.path + ("?" + parts.query if parts.query else "")
    return http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=TIMEOUT_S), path or "/"


def request(command):
    connection, path = connect(command["url"])
    try:
        body = command["body"].encode()
        repeat = command.get("repeat", 1)
        connection.request(command["method"], path, body=body * repeat or None, headers=dict(command["headers"]))
        response = connection.getresponse()
        text = response.read().decode("utf-8", "replace")
        headers = {name.lower(): value for name, value in response.getheaders()}
        return {"status": response.status, "headers": headers, "body": text}
    except (OSError, http.client.HTTPException) as error:
        return {"error": repr(error)}
    finally:
        connection.close()


def raw(command):
    received = b""
    with socket.create_connection((command["host"], command["port"]), timeout=TIMEOUT_S) as connection:
        connection.settimeout(10)
        try:
            connection.sendall(command["bytes"].encode("latin-1"))
        except OSError:
            pass  # Refused in the middle; what was answered can still be read.
        try:
            while chunk := connection.recv(65536):
                received += chunk
        except OSError:
            pass
    return {"text": received.decode("utf-8", "replace")}


def leave(command):
    connection, path = connect(command["url"])
    connection.request("GET", path, headers={"Host": command["host"]})
    time.sleep(command["after"])
    connection.close()
    return {"left": True}


def many(command):
    answers, connection = [], None
    for method, url in command["requests"]:
        if connection is None:
            connection, _ = connect(url)
        parts = urllib.parse.urlsplit(url)
        connection.request(method, parts.path, headers={"Host": command["host"]})
        response = connection.getresponse()
        text = response.read().decode("utf-8", "replace")
        answers.append({"status": response.status, "header": response.getheader("x-operation"), "body": text[:300]})
    return {"answers": answers}


class Load:
    """A rate of requests over kept connections: each starts at its time, whatever became of the ones before."""

    def __init__(self, command):
        self.command = command
        self.due = queue.Queue()
        self.lock = threading.Lock()
        self.statuses, self.bodies = collections.Counter(), collections.Counter()
        self.samples, self.longest = [], 0.0

    def run(self):
        workers = [threading.Thread(target=self.work) for _ in range(min(64, self.command["rate"]))]
        for worker in workers:
            worker.start()
        print("started", flush=True)
        start, total = time.monotonic(), self.command["rate"] * self.command["seconds"]
        for number in range(total):
            self.due.put((start + number / self.command["rate"], number))
        for _ in workers:
            self.due.put(None)
        for worker in workers:
            worker.join()
        return {
            "statuses": self.statuses, "bodies": dict(self.bodies.most_common(20)),
            "samples": self.samples[:10], "longest_ms": self.longest * 1000,
        }

    def work(self):
        connection, path = connect(self.command["url"])
        while (item := self.due.get()) is not None:
            at, number = item
            time.sleep(max(0.0, at - time.monotonic()))
            began = time.monotonic()
            try:
                body = self.command["body"].replace("{n}", str(number)).encode()
                headers = {"Host": self.command["host"]}
                connection.request(self.command["method"], path, body=body or None, headers=headers)
                response = connection.getresponse()
                status, text = str(response.status), response.read().decode("utf-8", "replace")
            except (OSError, http.client.HTTPException) as error:
                status, text = "error", repr(error)
                connection.close()
            self.note(status, text, number, time.monotonic() - began)

    def note(self, status, text, number, took):
        with self.lock:
            self.statuses[status] += 1
            self.longest = max(self.longest, took)
            if status == "200":
                self.bodies[text[:200]] += 1
            else:
                self.samples.append({"status": status, "number": number, "took": took, "text": text[:300]})


def load(command):
    return Load(command).run()


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    print(json.dumps({"request": request, "raw": raw, "leave": leave, "many": many, "load": load}[asked["do"]](asked)))

import os
import socket
import threading
import time
import uuid

COUNTER = (os.environ["COUNTER_HOST"], int(os.environ["COUNTER_PORT"]))
PATIENCE_S = 20
mine = threading.local()


def tell(line):
    """Returns once the counter has the line; it may have it twice."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            if getattr(mine, "pipe", None) is None:
                mine.pipe = socket.create_connection(COUNTER, timeout=PATIENCE_S)
            mine.pipe.sendall(line.encode())
            if mine.pipe.recv(3) == b"ok\n":
                return
            raise OSError("the counter hung up")
        except OSError:
            mine.pipe = None
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def handler(event, context):
    number, attempt = event["queryStringParameters"]["n"], event["requestContext"]["attempt"]
    run = f"{uuid.uuid4()} {number} {attempt}"
    tell(f"{run} begin\n")
    time.sleep(0.02)
    tell(f"{run} end\n")
    return number

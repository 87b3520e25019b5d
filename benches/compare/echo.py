"""An echo by WebSocket (RFC 6455): the origin's side, and the load. Run as a program, it is either:

    echo.py serve PORT
    echo.py load PORT CONNECTIONS SECONDS

Each connection of the load has one message of 100 bytes under way at a time. What comes back is compared."""

import asyncio
import base64
import hashlib
import os
import sys
import time

from server import Server

MESSAGE = bytes(range(100))
MASK = b"\x12\x34\x56\x78"
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
HEAD_SECONDS = 10


def masked(payload):
    key = int.from_bytes(MASK * (len(payload) // 4 + 1), "big") >> 8 * (4 - len(payload) % 4)
    return (int.from_bytes(payload, "big") ^ key).to_bytes(len(payload), "big")


FROM_CLIENT = bytes([0x82, 0x80 | len(MESSAGE)]) + MASK + masked(MESSAGE)
FROM_SERVER = bytes([0x82, len(MESSAGE)]) + MESSAGE


class Echo(Server):
    name = "echo"

    def __init__(self, lab):
        super().__init__(lab)
        self.cores = [lab.origin_core]

    def command(self):
        return [sys.executable, __file__, "serve", self.port]


async def serve(port):
    async def handle(reader, writer):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            lines = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
            key = next(value for name, value in lines.items() if name.lower() == b"sec-websocket-key")
            accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                         b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
            while True:
                first, length = await reader.readexactly(2)
                frame = await reader.readexactly(4 + (length & 0x7f))  # small ones only
                writer.write(bytes([first, length & 0x7f]) + masked(frame[4:]))
        except (asyncio.IncompleteReadError, ConnectionError, StopIteration):
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", port)
    await server.serve_forever()


async def echoes(port, until, counted):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    key = base64.b64encode(os.urandom(16))
    writer.write(b"GET /echo HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                 b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEAD_SECONDS)
    if not head.startswith(b"HTTP/1.1 101 ") or base64.b64encode(hashlib.sha1(key + GUID).digest()) not in head:
        raise SystemExit(f"no WebSocket: {head}")
    while time.monotonic() < until:
        writer.write(FROM_CLIENT)
        if await reader.readexactly(len(FROM_SERVER)) != FROM_SERVER:
            raise SystemExit("what came back is another message")
        counted[0] += 1
    writer.close()


async def load(port, connections, seconds):
    began, counted = time.monotonic(), [0]
    await asyncio.gather(*(echoes(port, began + seconds, counted) for _ in range(connections)))
    print(f"RESULT {counted[0]} {time.monotonic() - began}")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve(int(sys.argv[2])))
    else:
        asyncio.run(load(int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))

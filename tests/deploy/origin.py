#!/usr/bin/env python3
"""An origin for the tests: origin.py ADDRESS PORT.

/slow/N   N bytes, one each 100 ms
/ws       becomes a tunnel that sends back what it gets
/big      20 MiB, cacheable
else      200, cacheable for a minute
"""
import socketserver
import sys
import time


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        while True:
            line = self.rfile.readline(65536).decode("latin-1")
            fields = {}
            while True:
                field = self.rfile.readline(65536).decode("latin-1").strip()
                if not field:
                    break
                name, _, value = field.partition(":")
                fields[name.lower()] = value.strip()
            if not line.strip():
                return
            path = line.split(" ")[1]
            if path == "/ws" and fields.get("upgrade", "").lower() == "websocket":
                self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
                while data := self.connection.recv(4096):
                    self.connection.sendall(data)
                return
            if path.startswith("/slow/"):
                count = int(path.split("/")[2])
                self.wfile.write(b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: %d\r\n\r\n" % count)
                for _ in range(count):
                    self.wfile.write(b".")
                    time.sleep(0.1)
                continue
            body = b"x" * (20 << 20) if path == "/big" else b"hello\n"
            head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nContent-Length: %d\r\n\r\n" % len(body)
            self.wfile.write(head.encode() + body)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


if __name__ == "__main__":
    Server((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()

"""The origins of a run: servers that say what they were asked, and do what the query tells them.

An answer is 200, and its body has the origin's name, the request's line, its fields, and its body. In a query:

    status=503  delay=MS  size=BYTES  cc=max-age=60 (Cache-Control)  set=NAME:VALUE (any field; more than once)

An If-None-Match that is the answer's ETag gets 304. /healthz does not count.
"""
import socket
import ssl
import threading
import time
import urllib.parse

import http2
import wire


class Origin:
    def __init__(self, name, port):
        self.name, self.port = name, port
        self.count = self.confirmed = 0
        self.sick, self.tls, self.listener = False, None, None
        self.connections, self.lock = set(), threading.Lock()
        self.start()

    # What a guide's steps do with it.

    def start(self):
        self.listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

    def stop(self):
        listener, self.listener = self.listener, None
        with self.lock:
            sockets = list(self.connections) + ([listener] if listener else [])
        for each in sockets:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        if listener:
            listener.close()

    def speak_tls(self, cert, key):
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(cert, key)

    # Its connections.

    def accept(self, listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.settimeout(60)
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        with self.lock:
            self.connections.add(connection)
        try:
            if self.tls:
                with self.lock:
                    self.connections.discard(connection)
                connection = self.tls.wrap_socket(connection, server_side=True)
            with connection.makefile("rb") as file:
                if file.peek(4)[:4] == b"PRI ":
                    http2.serve(file, connection.sendall, self.answer_h2)
                else:
                    while self.serve_one(connection, file):
                        pass
        except (OSError, ValueError, IndexError):
            pass                                            # whoever asked is gone
        finally:
            with self.lock:
                self.connections.discard(connection)
            connection.close()

    def serve_one(self, connection, file):
        """Answers one request of HTTP/1; whether another may follow."""
        line = file.readline(65536).decode("latin-1")
        if not line.strip():
            return False
        method, target, version = line.split()
        fields = []
        while text := file.readline(65536).decode("latin-1").strip():
            name, _, value = text.partition(":")
            fields.append((name.lower(), value.strip()))
        told = dict(fields)
        if told.get("upgrade", "").lower() == "websocket":
            self.talk(connection, file, target, told["sec-websocket-key"])
            return False
        body = read_body(file, told)
        status, out, data = self.answer(method, target, fields, body)
        close = version == "HTTP/1.0" or told.get("connection", "").lower() == "close"
        if status not in (204, 304):
            out.append(("Content-Length", str(len(data))))
        out.append(("Date", time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())))
        if close:
            out.append(("Connection", "close"))
        head = f"HTTP/1.1 {status} Status\r\n" + "".join(f"{name}: {value}\r\n" for name, value in out) + "\r\n"
        bare = method == "HEAD" or status in (204, 304)
        connection.sendall(head.encode("latin-1") + (b"" if bare else data))
        return not close

    def talk(self, connection, file, target, key):
        """A WebSocket: one message, and its echo."""
        self.asked()
        connection.sendall("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                           f"Sec-WebSocket-Accept: {wire.accept(key.encode())}\r\n\r\n".encode())
        message = wire.ws_read(file)
        connection.sendall(wire.ws_frame(f"origin {self.name} {target}: ".encode() + message, masked=False))
        file.read(1)

    # Its answers.

    def asked(self):
        with self.lock:
            self.count += 1

    def answer(self, method, target, fields, body):
        """Status, fields and body."""
        path, _, query = target.partition("?")
        if path != "/healthz":
            self.asked()
        told = urllib.parse.parse_qsl(query, keep_blank_values=True)
        options = dict(told)
        time.sleep(int(options.get("delay", 0)) / 1000)
        status = 503 if self.sick else int(options.get("status", 200))
        out = {"content-type": "text/plain", "server": "origin", "x-powered-by": "PHP/8.2"}
        if "cc" in options:
            out["cache-control"] = options["cc"]
        for name, value in told:
            if name == "set":
                field, _, content = value.partition(":")
                out[field.lower()] = content
        if "etag" in out and out["etag"] == dict(fields).get("if-none-match"):
            with self.lock:
                self.confirmed += 1
            return 304, list(out.items()), b""
        text = f"origin {self.name}\n{method} {target}\n" + "".join(f"{name}: {value}\n" for name, value in fields)
        data = text.encode("latin-1") + b"\n" + body
        return status, list(out.items()), data.ljust(int(options.get("size", 0)), b"x")

    def answer_h2(self, fields, body):
        """Fields, body and trailers."""
        told = dict(fields)
        if told.get("content-type", "").startswith("application/grpc"):
            self.asked()
            said = f"origin {self.name} {told[':path']}: ".encode() + body[5:]
            head = [(":status", "200"), ("content-type", "application/grpc")]
            return head, wire.grpc_message(said), [("grpc-status", "0")]
        plain = [("host", told.get(":authority", ""))] + [each for each in fields if each[0][0] != ":"]
        status, out, data = self.answer(told[":method"], told[":path"], plain, body)
        return [(":status", str(status)), *out], data, []


def read_body(file, told):
    if "chunked" not in told.get("transfer-encoding", "").lower():
        return file.read(int(told.get("content-length", 0)))
    body = b""
    while size := int(file.readline().split(b";")[0], 16):
        body += file.read(size)
        file.readline()
    file.readline()
    return body

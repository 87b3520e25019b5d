"""Requests as guides write them, and the answers to them. HTTP/2 is curl's."""
import http.client
import re
import socket
import ssl
import subprocess
import tempfile
import time
from dataclasses import dataclass, field, replace

import wire

PATIENCE = 20.0
ITEMS = re.compile(r"; (?=(?:body|size|from|ws|proxy|parallel|tls)=|[\w-]+: |(?:twice|h2|x\d+)(?:;|$))")


@dataclass
class Ask:
    method: str
    target: str
    fields: list = field(default_factory=list)
    body: bytes | None = None
    times: int = 1
    parallel: bool = False
    source: str | None = None
    proxy: str | None = None
    h2: bool = False
    ws: bytes | None = None
    tls: str | None = None
    scheme: str = "http"
    host: str = "shop.example.com"
    port: int = 8080                            # as guides write it


@dataclass
class Answer:
    status: str
    fields: list = field(default_factory=list)
    body: bytes = b""
    version: str = ""
    cert: str = ""
    seconds: float = 0.0

    def get(self, name):
        values = [value for known, value in self.fields if known.lower() == name.lower()]
        return ", ".join(values) if values else None


def parse(text):
    """GET /a?b=1 name: value; twice"""
    words = re.fullmatch(r"([A-Z]+) (\S+)(?: (.*))?", text)
    if not words:
        raise ValueError(f"neither a request nor an order: {text!r}")
    ask = Ask(words[1], words[2], h2=words[1] == "GRPC")
    if url := re.fullmatch(r"(https?)://([^/:]+)(?::(\d+))?(.*)", ask.target):
        ask.scheme, ask.host, ask.target = url[1], url[2], url[4] or "/"
        ask.port = int(url[3] or {"http": 8080, "https": 8443}[ask.scheme])
    for item in ITEMS.split(words[3] or ""):
        item = item.strip("; ")
        name, _, value = item.partition("=")
        if given := re.fullmatch(r"([\w-]+): (.*)", item):
            content = re.sub(r"^x\*(\d+)$", lambda found: "x" * int(found[1]), given[2])
            if given[1].lower() == "host":
                ask.host = content
            else:
                ask.fields.append((given[1], content))
        elif item == "h2":
            ask.h2 = True
        elif item == "twice":
            ask.times = 2
        elif times := re.fullmatch(r"x(\d+)", item):
            ask.times = int(times[1])
        elif name == "parallel":
            ask.times, ask.parallel = int(value), True
        elif name == "size":
            ask.body = b"x" * int(value)
        elif name in ("body", "ws"):
            setattr(ask, name, value.encode())
        elif name in ("proxy", "tls"):
            setattr(ask, name, value)
        elif name == "from":
            ask.source = value
        elif item:
            raise ValueError(f"not understood: {item!r}")
    return ask


def numbered(ask, number):
    """The request with `{n}` replaced by its number."""
    def fill(text):
        return text and text.replace("{n}", str(number))
    return replace(ask, fields=[(name, fill(value)) for name, value in ask.fields], source=fill(ask.source))


def send(ask, ports, ca):
    """Asks, and waits for the answer. `ca` is a file with the authorities to trust."""
    began = time.monotonic()
    answer = (send_by_curl if ask.h2 else send_by_socket)(ask, ports[ask.port], ca)
    answer.seconds = time.monotonic() - began
    return answer


def send_by_socket(ask, port, ca):
    cert = ""
    try:
        with socket.create_connection(("127.0.0.1", port), PATIENCE, (ask.source or "127.0.0.1", 0)) as plain:
            if ask.proxy:
                plain.sendall(f"PROXY TCP4 {ask.proxy} 127.0.0.1 4000 8080\r\n".encode())
            if ask.scheme == "http":
                return (send_h1 if ask.ws is None else send_ws)(plain, ask)
            context = ssl.create_default_context(cafile=ca)
            context.set_alpn_protocols(["http/1.1"])
            if ask.tls:
                context.maximum_version = ssl.TLSVersion[f"TLSv{ask.tls.replace('.', '_')}"]
            with context.wrap_socket(plain, server_hostname=ask.host) as secure:
                cert = dict(pair[0] for pair in secure.getpeercert()["subject"])["commonName"]
                answer = (send_h1 if ask.ws is None else send_ws)(secure, ask)
                answer.cert = cert
                return answer
    except ssl.SSLError:
        return Answer("tls-error")
    except (http.client.RemoteDisconnected, ConnectionError):
        return Answer("closed")
    except (TimeoutError, http.client.HTTPException):
        return Answer("none")


def send_h1(connection, ask):
    client = http.client.HTTPConnection("127.0.0.1")
    client.sock = connection
    client.putrequest(ask.method, ask.target, skip_host=True, skip_accept_encoding=True)
    client.putheader("Host", ask.host)
    for name, value in ask.fields:
        client.putheader(name, value)
    if ask.body is not None:
        client.putheader("Content-Length", str(len(ask.body)))
    client.endheaders()
    try:
        connection.sendall(ask.body or b"")
    except (BrokenPipeError, ConnectionResetError):
        pass                                    # refused before it was read: there is an answer all the same
    response = client.getresponse()
    try:
        body = response.read()
    except http.client.IncompleteRead as cut:
        body = cut.partial + b"(cut short)"
    return Answer(str(response.status), response.getheaders(), body, {10: "1.0", 11: "1.1"}[response.version])


def send_ws(connection, ask):
    head = f"GET {ask.target} HTTP/1.1\r\nHost: {ask.host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    head += f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {wire.KEY.decode()}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in ask.fields) + "\r\n"
    connection.sendall(head.encode())
    with connection.makefile("rb") as file:
        status, fields = read_head(file)
        if status != "101":
            return Answer(status, fields)
        connection.sendall(wire.ws_frame(ask.ws, masked=True))
        return Answer(status, fields, wire.ws_read(file), "1.1")


def read_head(file):
    line = file.readline().split()
    if len(line) < 2:
        raise ConnectionResetError
    fields = []
    while text := file.readline().decode("latin-1").strip():
        name, _, value = text.partition(":")
        fields.append((name, value.strip()))
    return line[1].decode(), fields


def send_by_curl(ask, port, ca):
    method, body, fields = ask.method, ask.body, [("Host", ask.host), *ask.fields]
    if method == "GRPC":
        method, body = "POST", wire.grpc_message(body or b"")
        fields += [("Content-Type", "application/grpc"), ("TE", "trailers")]
    with tempfile.NamedTemporaryFile() as head:
        command = ["curl", "-q", "-sS", "--noproxy", "*", "--max-time", str(PATIENCE), "-D", head.name, "-X", method,
                   "--http2" if ask.scheme == "https" else "--http2-prior-knowledge", "--cacert", ca,
                   "--connect-to", f"::127.0.0.1:{port}", "-H", "User-Agent:", "-H", "Accept:"]
        for name, value in fields:
            command += ["-H", f"{name}: {value}"]
        if body is not None:
            command += ["--data-binary", "@-"]
        done = subprocess.run([*command, f"{ask.scheme}://{ask.host}{ask.target}"], input=body or b"",
                              capture_output=True, timeout=PATIENCE + 5)
        lines = [line.decode("latin-1").strip() for line in head.read().split(b"\n")]
    if done.returncode:
        return Answer({28: "none", 35: "tls-error", 60: "tls-error"}.get(done.returncode, "closed"))
    version, status = lines[0].split()[:2]
    pairs = (line.partition(":") for line in lines[1:] if ":" in line)
    fields = [(name, value.strip()) for name, _, value in pairs]
    return Answer(status, fields, done.stdout, version.removeprefix("HTTP/"))

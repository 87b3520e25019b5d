"""That a server does what a case is about, before its processor time is taken for doing that."""

import socket
import ssl
import subprocess
import time
from itertools import count

import load
from server import Failed

PASSES = 5          # over all paths of a case, until none of them is asked of the origin any more
COLLISIONS = 0.001  # of the paths: HAProxy's cache may have room for only one of two, as their hashes fall
HIT_SECONDS = 5     # until an object must be found where it was stored
CIPHER = "TLS_AES_256_GCM_SHA384"  # what OpenSSL's clients, wrk among them, would have first
_fresh = count()


def warm(peer, case, origin):
    """Every object of the case is where it will be looked for."""
    if case.origin_per_request:
        return
    if not case.paths:
        fetch(peer, case, case.path, case.headers)
        return
    paths = sorted(set(case.paths))
    for _ in range(PASSES):
        before = origin.requests()
        load.ask_for_each(peer, paths, peer.dir / "paths")
        if origin.requests() - before <= len(paths) * COLLISIONS:
            return
    raise Failed(f"{peer.name} still asks the origin after {PASSES} passes over {len(paths)} paths")


def check(peer, case, origin):
    """The right bytes with the right status, from where the case says, the origin asked as often as it says."""
    deadline = time.monotonic() + HIT_SECONDS
    while True:
        path = f"{case.path}-check{next(_fresh)}" if case.answered == "stored" else case.path
        head, body, asked = fetch_counted(peer, case, origin, path)
        wrong = peer.prove(head)
        if asked == case.origin_per_request and not wrong:
            break
        if time.monotonic() > deadline:
            raise Failed(wrong or f"the origin was asked {asked} times, not {case.origin_per_request}")
        time.sleep(0.1)
    if head["status"] != str(case.status):
        raise Failed(f"status {head['status']}, not {case.status}")
    if body != case.expected_body(origin):
        raise Failed(f"the body is not the origin's ({len(body)} bytes)")
    if case.part and not head.get("content-range", "").startswith(f"bytes {case.part[0]}-{case.part[1]}/"):
        raise Failed(f"Content-Range is {head.get('content-range')!r}")
    if case.closes and head.get("connection", "").lower() != "close":
        raise Failed("it does not say that it closes the connection")
    if case.tls:
        check_tls(peer, case)
    while case.answered == "stored" and fetch_counted(peer, case, origin, path)[2]:
        if time.monotonic() > deadline:
            raise Failed("what it is to have stored is asked of the origin again")
        time.sleep(0.1)


# What is posted, by script; by gRPC a message of 100 bytes behind its prefix.
POSTED = {"post": b"p" * 1024, "upload": b"p" * 1024 * 1024, "grpc": b"\0\0\0\0\x64" + b"p" * 100}


def fetch_counted(peer, case, origin, path):
    """The answer, and how many requests it made to the origin."""
    before = origin.requests()
    head, body = fetch(peer, case, path, case.headers + case.conditions)
    return head, body, origin.requests() - before


def fetch(peer, case, path, headers):
    """The head, by lower-case names, and the body of one answer, by curl."""
    head_file, body_file = peer.dir / "head", peer.dir / "body"
    body_file.write_bytes(b"")  # curl leaves it alone if the answer has none
    command = ["curl", "-sS", "-k", "--max-time", "60", "--http2" if case.h2 else "--http1.1", "-D", head_file,
               "-o", body_file, peer.url(path)]
    for line in headers:
        command += ["-H", line]
    if case.script in POSTED:
        command += ["--data-binary", f"@{posted(peer, case)}", "-H", "Expect:"]
        command += [] if case.headers else ["-H", "Content-Type: text/plain"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(done.stderr.strip())
    first, *lines = head_file.read_text(errors="replace").splitlines()
    head = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            head[name.lower()] = value.strip()
    version, head["status"] = first.split()[:2]
    if version != ("HTTP/2" if case.h2 else "HTTP/1.1"):
        raise Failed(f"answered by {version}")
    return head, body_file.read_bytes()


def posted(peer, case):
    """The file with what is posted."""
    path = peer.dir / "posted"
    path.write_bytes(POSTED[case.script])
    return path


def client_context():
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def check_tls(peer, case):
    """The same protocol and cipher for all. Where connections are new, their sessions must be resumed: TLS 1.3 gives
    its tickets after the handshake, so they are there once something has been read."""
    context, session = client_context(), None
    for resumed in (False, True) if case.closes else (False,):
        with socket.create_connection(("127.0.0.1", peer.tls_port), 10) as plain:
            with context.wrap_socket(plain, session=session, server_hostname="localhost") as tls:
                if tls.cipher()[0] != CIPHER:
                    raise Failed(f"{tls.version()} with {tls.cipher()[0]}, not {CIPHER}")
                tls.sendall(f"GET {case.path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
                while tls.recv(65536):
                    pass
                if tls.session_reused != resumed:
                    raise Failed("the TLS session was not resumed")
                session = tls.session

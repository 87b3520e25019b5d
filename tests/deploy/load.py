#!/usr/bin/env python3
"""Clients that ask all the time, until standard input ends: load.py HOST PORT [slow] [tunnel].

Ten clients a connection for each request, two that keep theirs as long as they may; with `slow` a download that takes 12 s, with
`tunnel` one that is echoed. At the end one line: what was refused, what failed, the longest gap between two answers.
"""
import socket
import sys
import threading
import time

HOST, PORT = sys.argv[1], int(sys.argv[2])
REQUEST = b"GET /load HTTP/1.1\r\nHost: load.example\r\n%s\r\n"
DONE = threading.Event()
LOCK = threading.Lock()
COUNTS = {"asked": 0, "refused": 0, "failed": 0}
WORDS = {}
ANSWERS = []


def note(what, detail=None):
    with LOCK:
        COUNTS[what] += 1
        if detail:
            WORDS[detail] = WORDS.get(detail, 0) + 1


def answer(stream):
    """Reads one answer; its head, or nothing if the connection ended before it began."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = stream.recv(65536)
        if not piece:
            return data.decode("latin-1")
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.decode("latin-1").lower().split("\r\n"):
        if line.startswith("content-length:"):
            length = int(line.split(":")[1])
    while len(body) < length:
        piece = stream.recv(65536)
        if not piece:
            break
        body += piece
    return head.decode("latin-1")


def connect():
    try:
        return socket.create_connection((HOST, PORT), timeout=60)
    except OSError as error:
        note("refused", str(error))
        return None


def once(stream, closing):
    """One request: whether the connection may be used again. `None`: it was closed before the request got there."""
    note("asked")
    try:
        stream.sendall(REQUEST % (b"Connection: close\r\n" if closing else b""))
        head = answer(stream)
    except OSError as error:
        if not closing and isinstance(error, (ConnectionResetError, BrokenPipeError)):
            return None
        note("failed", str(error))
        return False
    if not head and not closing:
        return None
    if not head.startswith("HTTP/1.1 200"):
        note("failed", head.split("\r\n")[0] or "no answer")
        return False
    with LOCK:
        ANSWERS.append(time.monotonic())
    return "connection: close" not in head.lower()


def new_each_time():
    while not DONE.is_set():
        stream = connect()
        if stream:
            with stream:
                once(stream, True)
        time.sleep(0.02)


def keeping():
    """As a browser does: a kept connection that ends before an answer has begun is no failure, and is asked anew at once."""
    stream = None
    while not DONE.is_set():
        stream = stream or connect()
        if stream and not once(stream, False):
            stream.close()
            stream = None
        time.sleep(0.02)


def slow():
    stream = connect()
    stream.sendall(b"GET /slow/120 HTTP/1.1\r\nHost: load.example\r\n\r\n")
    data = b""
    while b"\r\n\r\n" not in data:
        data += stream.recv(4096)
    data = data.partition(b"\r\n\r\n")[2]
    try:
        while data.count(b".") < 120:
            piece = stream.recv(4096)
            if not piece:
                break
            data += piece
    except OSError:
        pass
    WORDS["slow download"] = "whole" if data.endswith(b"." * 120) else f"cut off after {data.count(b'.')}"


def tunnel():
    stream = connect()
    stream.sendall(b"GET /ws HTTP/1.1\r\nHost: load.example\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    head = stream.recv(4096)
    echoes = 0
    try:
        while not DONE.is_set():
            stream.sendall(b"ping")
            if stream.recv(4096) != b"ping":
                break
            echoes += 1
            time.sleep(0.1)
    except OSError:
        pass
    fine = head.startswith(b"HTTP/1.1 101") and DONE.is_set()
    WORDS["tunnel"] = "open to the end" if fine else f"ended after {echoes} echoes"


def main():
    threads = [threading.Thread(target=new_each_time) for _ in range(10)]
    threads += [threading.Thread(target=keeping) for _ in range(2)]
    long = [threading.Thread(target=task) for name, task in (("slow", slow), ("tunnel", tunnel)) if name in sys.argv[3:]]
    for thread in threads + long:
        thread.start()
    sys.stdin.read()
    DONE.set()
    for thread in threads + long:
        thread.join(70)
    gaps = sorted((later - earlier for earlier, later in zip(ANSWERS, ANSWERS[1:])), reverse=True)
    longest = gaps[0] if gaps else float("inf")
    details = "; ".join(f"{word}: {count}" for word, count in WORDS.items())
    print(f"asked={COUNTS['asked']} refused={COUNTS['refused']} failed={COUNTS['failed']} gap={longest:.3f} {details}")


main()

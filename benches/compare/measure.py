"""One measurement of one server: processor time a request, or memory a connection or object."""

import socket
import statistics
import time
from dataclasses import dataclass

import check
import load
from origin import KIB
from server import Failed, cpu_between

MAX_ERRORS = 0.001          # of the requests
ORIGIN_TOLERANCE = 0.02     # requests to the origin, of those that there should be
QUIET_SECONDS, QUIET_NS = 0.1, 1_000_000
SETTLE_SECONDS = 10

@dataclass
class Sample:
    cost: float          # microseconds a request, or bytes a connection or object
    rate: float = None   # requests a second
    load: float = None   # microseconds a request of the load generator

@dataclass
class Summary:
    cost: float
    least: float
    most: float
    rate: float
    load: float

def summary(samples):
    costs = [sample.cost for sample in samples]
    return Summary(statistics.median(costs), min(costs), max(costs), median_of_known(s.rate for s in samples),
                   median_of_known(s.load for s in samples))


def median_of_known(values):
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None

def measure(lab, peer, case, origin, options):
    """How many requests it answered at least, and the sample."""
    if case.kind == "idle":
        return options.idle, idle_connections(peer, case, options.idle)
    if case.kind == "objects":
        return options.objects, stored_objects(peer, case, origin, options.objects)
    if case.kind == "echo":
        return case.connections, echoed_messages(lab, peer, case, options.seconds)
    return requests_under_load(lab, peer, case, origin, options.seconds)

def echoed_messages(lab, peer, case, seconds):
    """Processor time for each message that goes to the origin and comes back."""
    before, load_before = peer.cpu_ns(), load.cpu_seconds()
    run = load.echo(lab, peer, case.connections, seconds)
    load_seconds = load.cpu_seconds() - load_before
    if run.requests < seconds:
        raise Failed(f"{run.requests} messages in {run.seconds:.1f} s")
    return Sample(cpu_between(before, settle(peer)) / 1000 / run.requests, run.requests / run.seconds,
                  load_seconds * 1e6 / run.requests)

def requests_under_load(lab, peer, case, origin, seconds):
    """How many there were, and what one took."""
    asked_before, before, load_before = origin.requests(), peer.cpu_ns(), load.cpu_seconds()
    run = load.run(lab, peer, case, seconds)
    load_seconds = load.cpu_seconds() - load_before
    after = settle(peer)
    asked = origin.requests() - asked_before
    requests = run.bytes / len(case.expected_body(origin)) if case.by_bytes else run.requests
    if requests < seconds:
        raise Failed(f"{requests:.0f} requests in {run.seconds:.1f} s")
    if run.errors > MAX_ERRORS * requests:
        raise Failed(f"{run.errors} of {requests:.0f} requests failed")
    expected = requests * case.origin_per_request
    # Requests under way when the load ends have reached the origin and are not counted.
    if abs(asked - expected) > ORIGIN_TOLERANCE * requests + case.connections:
        raise Failed(f"{asked} requests reached the origin for {requests:.0f}, not {expected:.0f}")
    return requests, Sample(cpu_between(before, after) / 1000 / requests, requests / run.seconds,
                            load_seconds * 1e6 / requests)

def settle(peer):
    """The processor time when the server is quiet: what it puts off (writing to disk, making room) counts as well."""
    deadline = time.monotonic() + SETTLE_SECONDS
    now = peer.cpu_ns()
    while time.monotonic() < deadline:
        time.sleep(QUIET_SECONDS)
        before, now = now, peer.cpu_ns()
        if cpu_between(before, now) < QUIET_NS:
            break
    return now

def idle_connections(peer, case, count):
    """Resident memory for each of many connections that have had one answer and are kept open."""
    request = f"GET {case.path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    context = check.client_context() if case.tls else None

    def connect():
        client = socket.create_connection(("127.0.0.1", peer.tls_port if case.tls else peer.port), 10)
        if context:
            client = context.wrap_socket(client, server_hostname="localhost")
        client.sendall(request)
        answer = b""
        while len(answer.partition(b"\r\n\r\n")[2]) < KIB:
            part = client.recv(65536)
            if not part:
                raise Failed("it closed an idle connection, or never answered")
            answer += part
        return client

    opened = []
    try:
        for _ in range(100):  # what the first ones need is not theirs alone
            connect().close()
        before = peer.resident_bytes()
        for _ in range(count):
            opened.append(connect())
        time.sleep(1)
        after = peer.resident_bytes()
        opened[0].setblocking(False)
        try:
            if opened[0].recv(1) == b"":
                raise Failed("it has closed the first connection")
        except (BlockingIOError, check.ssl.SSLWantReadError):
            pass  # still open
        return Sample((after - before) / count)
    finally:
        for client in opened:
            client.close()

def stored_objects(peer, case, origin, count):
    """Resident memory for each of many stored objects of 1 KiB, without that KiB."""
    load.ask_for_each(peer, [f"/object/first-{n}" for n in range(1000)], peer.dir / "paths")
    before, asked = peer.resident_bytes(), origin.requests()
    paths = [f"/object/{n}" for n in range(count)]
    load.ask_for_each(peer, paths, peer.dir / "paths")
    settle(peer)
    after = peer.resident_bytes()
    load.ask_for_each(peer, paths, peer.dir / "paths")
    if origin.requests() - asked != count:
        raise Failed(f"{origin.requests() - asked} requests reached the origin for {count} objects: not all are stored")
    return Sample((after - before) / count - KIB)

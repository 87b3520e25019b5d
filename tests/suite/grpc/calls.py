#!/usr/bin/env python3
"""Calls by gRPC, with the real library on both sides.

calls.py server                     serves on a free port of loopback, says which, and ends with its standard input
calls.py client ADDRESS [CA] [CHECK ...]   makes calls to ADDRESS, by TLS if there is a CA ("-": none), and checks the answers

SILENCE: seconds that the silent streams say nothing (default: 3). STREAMS: that are open at one time (default: 1000)."""

import os
import sys
import threading
import time
from concurrent import futures

import grpc

SILENCE = float(os.environ.get("SILENCE", "3"))
STREAMS = int(os.environ.get("STREAMS", "1000"))
PATIENCE = SILENCE + 30
HOST = "shop.example"


class Calls:
    """What the server has seen end without its doing."""

    def __init__(self):
        self.cancelled = threading.Semaphore(0)
        self.open = 0
        self.lock = threading.Condition()

    def unary(self, request, context):
        if request == b"fail":
            context.set_trailing_metadata((("why", "asked"),))
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as asked")
        if request == b"late":
            time.sleep(SILENCE)
        if request == b"hang":
            self.wait_for_the_end(context)
        context.set_trailing_metadata((("seen", str(len(request))),))
        return request

    def wait_for_the_end(self, context):
        ended = threading.Event()
        if context.add_callback(ended.set):
            ended.wait(PATIENCE)
        self.cancelled.release()

    def was_cancelled(self, request, context):
        return b"yes" if self.cancelled.acquire(timeout=PATIENCE) else b"no"

    def server_stream(self, request, context):
        if request == b"silent":
            yield b"first"
            time.sleep(SILENCE)
            yield b"last"
            return
        if request == b"late":
            time.sleep(SILENCE)
        for number in range(int(request) if request.isdigit() else 3):
            yield str(number).encode() * 1000

    def client_stream(self, requests, context):
        return str(sum(len(request) for request in requests)).encode()

    def both_streams(self, requests, context):
        for request in requests:
            if request == b"stop":
                context.abort(grpc.StatusCode.CANCELLED, "no more")
            yield request

    def together(self, requests, context):
        """Answers once as many are open as are said."""
        wanted = int(next(requests))
        with self.lock:
            self.open += 1
            self.lock.notify_all()
            all_there = self.lock.wait_for(lambda: self.open >= wanted, PATIENCE)
        yield b"all" if all_there else b"some"
        for _ in requests:
            pass


def health(request, context):
    """grpc.health.v1.Health/Check, for services called "well" and "sick", and for the server as a whole."""
    statuses = {b"": 1, b"\x0a\x04well": 1, b"\x0a\x04sick": 2}
    if request not in statuses:
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
    return bytes([0x08, statuses[request]])


def serve():
    calls = Calls()
    handlers = {
        "unary": grpc.unary_unary_rpc_method_handler(calls.unary),
        "was_cancelled": grpc.unary_unary_rpc_method_handler(calls.was_cancelled),
        "server_stream": grpc.unary_stream_rpc_method_handler(calls.server_stream),
        "client_stream": grpc.stream_unary_rpc_method_handler(calls.client_stream),
        "both_streams": grpc.stream_stream_rpc_method_handler(calls.both_streams),
        "together": grpc.stream_stream_rpc_method_handler(calls.together),
    }
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=STREAMS + 50))
    checks = {"Check": grpc.unary_unary_rpc_method_handler(health)}
    services = {"test.Calls": handlers, "grpc.health.v1.Health": checks}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(*service) for service in services.items()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(None)


class Client:
    def __init__(self, address, ca):
        options = [("grpc.default_authority", HOST), ("grpc.enable_retries", 0)]
        if ca == "-":
            self.channel = grpc.insecure_channel(address, options)
        else:
            options.append(("grpc.ssl_target_name_override", HOST))
            credentials = grpc.ssl_channel_credentials(open(ca, "rb").read())
            self.channel = grpc.secure_channel(address, credentials, options)
        name = "/test.Calls/{}".format
        self.unary = self.channel.unary_unary(name("unary"))
        self.was_cancelled = self.channel.unary_unary(name("was_cancelled"))
        self.server_stream = self.channel.unary_stream(name("server_stream"))
        self.client_stream = self.channel.stream_unary(name("client_stream"))
        self.both_streams = self.channel.stream_stream(name("both_streams"))
        self.together = self.channel.stream_stream(name("together"))
        self.missing = self.channel.unary_unary(name("missing"))

    def check_unary(self):
        for request in [b"", b"hello", b"x" * 1_000_000]:
            answer, call = self.unary.with_call(request, timeout=PATIENCE)
            assert answer == request
            assert dict(call.trailing_metadata())["seen"] == str(len(request))

    def check_errors(self):
        status, call = failure(lambda: self.unary(b"fail", timeout=PATIENCE))
        assert (status, call.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "as asked")
        assert dict(call.trailing_metadata())["why"] == "asked"
        assert failure(lambda: self.missing(b"", timeout=PATIENCE))[0] == grpc.StatusCode.UNIMPLEMENTED

    def check_streams(self):
        assert list(self.server_stream(b"500", timeout=PATIENCE)) == [str(n).encode() * 1000 for n in range(500)]
        assert list(self.server_stream(b"0", timeout=PATIENCE)) == []
        assert self.client_stream(iter([b"x" * 10_000] * 300), timeout=PATIENCE) == b"3000000"
        assert self.client_stream(iter([]), timeout=PATIENCE) == b"0"

    def check_both(self):
        requests = Requests()
        answers = self.both_streams(requests, timeout=PATIENCE)
        for number in range(100):  # each only once the one before has come back
            requests.put(str(number).encode())
            assert next(answers) == str(number).encode()
        requests.end()  # half-close
        assert list(answers) == []
        large = [b"y" * 50_000] * 100
        assert list(self.both_streams(iter(large), timeout=PATIENCE)) == large

    def check_deadlines(self):
        started = time.monotonic()
        assert failure(lambda: self.unary(b"hang", timeout=1))[0] == grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - started < 10
        assert self.was_cancelled(b"", timeout=PATIENCE) == b"yes", "the server hears of it"

    def check_cancellation(self):
        call = self.unary.future(b"hang")
        time.sleep(0.5)
        call.cancel()
        assert self.was_cancelled(b"", timeout=PATIENCE) == b"yes", "the server hears of it"
        requests = Requests()
        answers = self.both_streams(requests)
        requests.put(b"one")
        assert next(answers) == b"one"
        requests.put(b"stop")
        assert failure(lambda: list(answers))[0] == grpc.StatusCode.CANCELLED, "the client hears of it"
        requests.end()

    def check_silence(self):
        assert self.unary(b"late", timeout=PATIENCE) == b"late"
        assert list(self.server_stream(b"silent", timeout=PATIENCE)) == [b"first", b"last"]
        assert len(list(self.server_stream(b"late", timeout=PATIENCE))) == 3
        requests = Requests()
        answers = self.both_streams(requests, timeout=PATIENCE)
        requests.put(b"one")
        assert next(answers) == b"one"
        time.sleep(SILENCE)
        requests.put(b"two")
        assert next(answers) == b"two"
        requests.end()
        assert list(answers) == []

    def check_many(self):
        calls = []
        for _ in range(STREAMS):
            requests = Requests()
            requests.put(str(STREAMS).encode())
            calls.append((requests, self.together(requests, timeout=PATIENCE)))
        assert all(next(answers) == b"all" for _, answers in calls)
        for requests, answers in calls:
            requests.end()
            assert list(answers) == []


class Requests:
    """Messages of a stream, as they are put."""

    def __init__(self):
        self.changed = threading.Condition()
        self.waiting = []

    def put(self, message):
        with self.changed:
            self.waiting.append(message)
            self.changed.notify_all()

    def end(self):
        self.put(None)

    def __iter__(self):
        return self

    def __next__(self):
        with self.changed:
            self.changed.wait_for(lambda: self.waiting, PATIENCE * 2)
            message = self.waiting.pop(0) if self.waiting else None
        if message is None:
            raise StopIteration
        return message


def failure(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error
    raise AssertionError("it did not fail")


def main():
    if sys.argv[1] == "server":
        return serve()
    client = Client(sys.argv[2], sys.argv[3])
    checks = sys.argv[4:] or ["unary", "errors", "streams", "both", "deadlines", "cancellation", "silence", "many"]
    for check in checks:
        started = time.monotonic()
        getattr(client, f"check_{check}")()
        print(f"{check}: {time.monotonic() - started:.2f} s", flush=True)


if __name__ == "__main__":
    main()

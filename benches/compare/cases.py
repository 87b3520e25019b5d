"""What is measured: a table. What a field means is said once, in `Case`."""

from dataclasses import dataclass, field

from origin import DISK_FILES, zipf_paths

HITS = ("seawall", "nginx", "nginx-copy", "nginx-cache", "haproxy", "varnish", "trafficserver", "floor")
# Over TLS nginx copies anyway.
TLS = ("seawall", "nginx", "nginx-cache", "haproxy", "trafficserver")
CACHES = ("seawall", "nginx-cache", "haproxy", "varnish", "trafficserver")
PROXIES = ("seawall", "nginx", "haproxy", "varnish", "trafficserver")
DISKS = ("seawall", "nginx", "nginx-cache", "trafficserver")


@dataclass(frozen=True)
class Case:
    name: str
    title: str
    path: str
    peers: tuple
    kind: str = "load"          # "load", "cores", "echo", "idle" or "objects": see measure.py
    answered: str = "hit"       # "hit", "disk hit", "stored" (a miss that is) or "pass": what the check insists on
    storage: str = "memory"     # where caches keep objects, if they have the choice
    tls: bool = False
    h2: bool = False
    closes: bool = False        # a connection for each request
    headers: tuple = ()
    conditions: tuple = ()      # more of them, with which a cache would not fetch the whole: warming leaves them out
    status: int = 200
    part: tuple = None          # the first and last byte of the range that is asked for
    body_path: str = None       # the file that is answered with, if not that of `path`
    generator: str = "wrk"      # or "h2load", which HTTP/2 needs and which knows HTTP/1.1 as well
    script: str = None          # of lua/, for wrk; or what is posted: see check.py
    script_argument: str = None
    paths: tuple = ()           # instead of `path`: asked for in this order
    connections: int = 16
    streams: int = 1            # of each connection at a time
    by_bytes: bool = False      # too few requests end within a round: they are counted by the bytes that came
    # At most so many times the processor time of a peer; "nginx" is whichever of its setups is the best in the case.
    targets: dict = field(default_factory=dict)
    limit: float = None         # at most so many bytes
    at_least: float = None      # times the requests of one core

    @property
    def origin_per_request(self):
        return 0 if "hit" in self.answered else 1

    def expected_body(self, origin):
        if self.status == 304:
            return b""
        body = origin.body(self.body_path or self.path)
        return body[self.part[0]:self.part[1] + 1] if self.part else body


def hits(prefix, title, peers, targets, **more):
    return [Case(f"{prefix}-{size}", f"{title}, {words}", f"/{size}", peers, targets=targets.get(size, {}), **more)
            for size, words in (("1k", "1 KiB"), ("16k", "16 KiB"), ("128k", "128 KiB"), ("1m", "1 MiB"))]


def all_cases(etags):
    """`etags` of the paths whose clients have them already."""
    return [
        *hits("hit", "memory hit", HITS, {
            "1k": {"nginx": 0.55, "haproxy": 0.80, "floor": 1.35},
            "16k": {"nginx": 0.65, "haproxy": 0.70, "floor": 1.30},
            "128k": {"nginx": 0.60, "haproxy": 0.80, "floor": 1.00}}),
        *hits("tls", "memory hit, TLS 1.3", TLS, {"1k": {"nginx": 0.60, "haproxy": 0.65}}, tls=True),
        *hits("h2", "memory hit, TLS 1.3, HTTP/2 with 16 streams", TLS, {"1k": {"nginx": 0.60, "haproxy": 1.20}},
              tls=True, h2=True, generator="h2load", connections=4, streams=16),
        # wrk waits for the body that HAProxy's 304 states the length of.
        Case("not-modified", "304 to If-None-Match", "/1k", HITS, status=304, generator="h2load",
             conditions=(f"If-None-Match: {etags['/1k']}",)),
        # HAProxy's cache does not answer ranges.
        Case("range", "16 KiB out of 128 KiB", "/128k", tuple(p for p in HITS if p != "haproxy"), status=206,
             conditions=("Range: bytes=16384-32767",), part=(16384, 32767)),
        Case("vary", "memory hit with Vary: Accept-Encoding, gzip, 8 KiB", "/vary/16k", HITS,
             headers=("Accept-Encoding: gzip",), body_path="/vary/16k.gz"),
        Case("zipf", "10,000 hot keys of 1 KiB, Zipf", "/zipf/0", HITS, script="list", paths=tuple(zipf_paths())),
        Case("pipeline", "memory hit, 1 KiB, 16 requests pipelined", "/1k", tuple(p for p in HITS if p != "floor"),
             script="pipeline", script_argument="16"),
        Case("connect", "memory hit, 1 KiB, each on a new connection", "/1k", HITS, closes=True,
             headers=("Connection: close",)),
        Case("connect-tls", "the same, TLS 1.3 resumed", "/1k", TLS, tls=True, closes=True,
             headers=("Connection: close",)),
        Case("disk-1m", "disk hit, 1 MiB", "/disk/0", DISKS, answered="disk hit", storage="disk", script="list",
             paths=tuple(f"/disk/{n}" for n in range(DISK_FILES)), targets={"nginx": 1.10}),
        Case("file-100m", "100 MiB", "/100m", (*DISKS, "haproxy", "varnish"), answered="disk hit", storage="disk",
             connections=4, by_bytes=True),
        Case("miss", "miss that stores 16 KiB in memory", "/miss/0", CACHES, answered="stored", script="new_urls",
             targets={"nginx": 1.30}),
        Case("miss-disk", "miss that stores 16 KiB on disk", "/miss/0", ("seawall", "nginx-cache", "trafficserver"),
             answered="stored", storage="disk", script="new_urls", targets={"nginx": 1.30}),
        Case("pass", "GET passed on, 1 KiB", "/pass/1k", PROXIES, answered="pass",
             targets={"nginx": 1.20, "haproxy": 1.10}),
        Case("pools", "GET passed on, 1 KiB, to one origin, three, a thousand", "/pass/1k",
             ("seawall", "seawall-pool-3", "seawall-pool-1000"), answered="pass"),
        Case("post", "POST passed on, 1 KiB", "/post", PROXIES, answered="pass", script="post",
             targets={"nginx": 1.30, "haproxy": 1.25}),
        Case("upload", "POST passed on, 1 MiB", "/post", PROXIES, answered="pass", script="upload", connections=4,
             targets={"nginx": 1.20}),
        Case("grpc", "unary call by gRPC, 100 bytes, HTTP/2 with 16 streams to the node and to the origin", "/grpc/call",
             ("seawall", "nginx"), answered="pass", tls=True, h2=True, generator="h2load", script="grpc", connections=4,
             streams=16, headers=("Content-Type: application/grpc", "TE: trailers"), targets={"nginx": 1.20}),
        Case("echo", "message of 100 bytes by WebSocket, there and back", "/echo", ("seawall", "nginx", "haproxy"),
             kind="echo", answered="pass"),
        Case("cores", "memory hit, 1 KiB, on two cores", "/1k", ("seawall", "seawall-2"), kind="cores", connections=64,
             at_least=1.8),
        Case("idle", "idle connection", "/1k", PROXIES, kind="idle", limit=8 * 1024),
        Case("idle-tls", "idle connection, TLS 1.3", "/1k", tuple(p for p in PROXIES if p != "varnish"),
             kind="idle", tls=True, limit=24 * 1024),
        # HAProxy touches all memory of its cache when it starts; nginx and Traffic Server have objects in files.
        Case("objects", "stored object of 1 KiB, beyond its body", "/object/0", ("seawall", "varnish"),
             kind="objects", answered="stored", limit=600),
    ]

"""The origin: nginx serving files that were made for the run. It counts its requests, which tells hits from misses."""

import gzip
import random
import urllib.request

import nginx_conf
from echo import Echo
from server import Server

KIB, MIB = 1024, 1024 * 1024
SIZES = {"/1k": KIB, "/posted": KIB, "/16k": 16 * KIB, "/128k": 128 * KIB, "/1m": MIB, "/100m": 100 * MIB}
CALLED = "the answer to a call"
HOT_KEYS = 10_000
DISK_FILES = 64
MOST_ADDRESSES = 1000

# `return` would answer before the body is there. That is allowed, but Traffic Server then leaves bytes of the body on
# the connection, where they are taken for the next request. A mirror makes nginx read the body first; files are not
# for POST, and the answer to that is a file.
READ_THEN_ANSWER = """
location = /post { mirror /dropped; try_files /posted =404; error_page 405 =200 /posted; }
location = /posted { internal; add_header Cache-Control "no-store"; }
location = /dropped { internal; return 204; }
"""


class Origin(Server):
    name = "origin"

    def __init__(self, lab):
        super().__init__(lab)
        self.cores = [lab.origin_core]
        self.status_port, self.h2_port = lab.free_port(), lab.free_port()
        self.root = self.dir / "www"
        self.echo = Echo(lab)
        self.asked = 0  # how often it was asked for its requests, which are requests, too

    def command(self):
        self._make_files()
        # Any URL below /miss/, /object/ and /pass/ is there; the first two may be stored.
        return nginx_conf.command(self, f"""
access_log off;
server {{ listen 127.0.0.1:{self.status_port}; location / {{ stub_status; }} }}
server {{
{self._listens()}
listen 127.0.0.1:{self.h2_port} http2 backlog=4096;
http2_max_concurrent_streams 1000;
{nginx_conf.files(self.root)}
client_body_buffer_size 1100k;
location /miss/ {{ try_files /16k =404; add_header Cache-Control "public, max-age=86400"; }}
location /object/ {{ try_files /1k =404; add_header Cache-Control "public, max-age=86400"; }}
location /pass/ {{ try_files /1k =404; add_header Cache-Control "no-store"; }}
location /grpc/ {{ return 200 "{CALLED}"; }}
{READ_THEN_ANSWER}
}}""")

    def addresses(self, number):
        """So many addresses of loopback at which it listens."""
        return [f"127.0.{n // 250}.{n % 250 + 1}:{self.port}" for n in range(number)]

    def _listens(self):
        return "\n".join(f"listen {address} backlog=4096;" for address in self.addresses(MOST_ADDRESSES))

    def start(self):
        super().start()
        self.echo.start()

    def stop(self):
        self.echo.stop()
        super().stop()

    def requests(self):
        """How many requests it has had, without those that ask this."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.status_port}/", timeout=10) as reply:
            # "server accepts handled requests", a line of names, then one of numbers.
            requests = int(reply.read().split(b"\n")[2].split()[2])
        self.asked += 1
        return requests - self.asked

    def etag(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as reply:
            return reply.headers["ETag"]

    def body(self, path):
        """The bytes that a request for `path` is to be answered with."""
        if path.startswith("/grpc/"):
            return CALLED.encode()
        for prefix, file in (("/miss/", "/16k"), ("/object/", "/1k"), ("/pass/", "/1k"), ("/post", "/posted")):
            if path.startswith(prefix):
                path = file
        return (self.root / path[1:]).read_bytes()

    def _make_files(self):
        for directory in ("zipf", "disk", "vary"):
            (self.root / directory).mkdir(parents=True)
        same_every_time = random.Random(1)
        for path, size in SIZES.items():
            (self.root / path[1:]).write_bytes(same_every_time.randbytes(size))
        for n in range(HOT_KEYS):
            (self.root / f"zipf/{n}").write_bytes(same_every_time.randbytes(KIB))
        for n in range(DISK_FILES):
            (self.root / f"disk/{n}").write_bytes(same_every_time.randbytes(MIB))
        text = same_every_time.randbytes(8 * KIB).hex().encode()
        (self.root / "vary/16k").write_bytes(text)
        (self.root / "vary/16k.gz").write_bytes(gzip.compress(text, mtime=0))


def zipf_paths(count=65536, exponent=1.0):
    """Paths below /zipf/, the n-th hottest asked for in proportion to 1/n^exponent; the same in every run."""
    weights = [1 / (n + 1) ** exponent for n in range(HOT_KEYS)]
    return [f"/zipf/{n}" for n in random.Random(2).choices(range(HOT_KEYS), weights, k=count)]

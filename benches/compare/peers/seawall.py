"""Seawall, as in production: with its access log and its metrics."""

import re
import subprocess
import time
import urllib.request

from .peer import MEMORY_MIB, Peer

# What its Cache-Status must say, so that what is measured is what the case claims.
CACHE_STATUS = {
    "hit": r"; hit(;(?!.*detail=)|$)",
    "disk hit": r"; hit;.*detail=disk",
    "stored": r"fwd=uri-miss; (stored|.*stored)",
    "pass": r"fwd=(bypass|method)",
}


class Seawall(Peer):
    name = "seawall"
    threads = 1
    setup = "threads = 1, access log (combined) to a file, metrics on"
    # How many origins the pool has, all of them the same server, and what else it says.
    origins, pool = 1, ""

    def __init__(self, lab, origin, case):
        super().__init__(lab, origin, case)
        self.cores = lab.cores[:self.threads]
        self.admin_port = lab.free_port()

    @classmethod
    def installed(cls, lab):
        return lab.seawall.exists()

    @classmethod
    def version(cls, lab):
        said = subprocess.run([lab.seawall, "--version"], capture_output=True, text=True, check=False).stdout.split()
        return said[-1] if said else "unknown version"

    def command(self):
        disk = ""
        if self.on_disk:
            (self.dir / "cache").mkdir()
            disk = f'[cache.disk]\npath = "{self.dir}/cache"\nmax_size = "8GiB"\n'
        # What is read from disk must not find a place in memory, or it is measured there.
        max_object = "64KiB" if self.on_disk else "8MiB"
        (self.dir / "state").mkdir()
        config = self.dir / "seawall.toml"
        config.write_text(f"""
[node]
threads = {self.threads}
state_dir = "{self.dir}/state"
[[listen]]
address = "127.0.0.1:{self.port}"
[[listen]]
address = "127.0.0.1:{self.tls_port}"
tls = true
[[certificate]]
cert = "{self.lab.certificate}"
key = "{self.lab.key}"
[admin]
address = "127.0.0.1:{self.admin_port}"
[log]
access = "{self.access_log}"
format = "combined"
[limits]
max_requests_per_connection = 1000000000
max_prefix_share = 100
keepalive_timeout = "1h"
[cache.memory]
max_size = "{MEMORY_MIB}MiB"
max_object = "{max_object}"
{disk}
[pool.origin]
origins = [{", ".join(f'"{address}"' for address in self.origin.addresses(self.origins))}]
{self.pool}
[pool.h2_origin]
origins = ["127.0.0.1:{self.origin.h2_port}"]
protocol = "h2"
[pool.echo]
origins = ["127.0.0.1:{self.origin.echo.port}"]
[site.all]
hosts = ["*"]
[[site.all.route]]
path = "/grpc/*"
pool = "h2_origin"
[[site.all.route]]
path = "/echo"
pool = "echo"
[[site.all.route]]
path = "/pass/*"
pool = "origin"
[[site.all.route]]
path = "/post"
pool = "origin"
[[site.all.route]]
path = "/*"
pool = "origin"
cache = {{ mode = "respect" }}
""")
        return [self.lab.seawall, "run", "--config", config]

    def prove(self, head):
        said = head.get("cache-status", "")
        wanted = CACHE_STATUS[self.case.answered]
        return None if re.search(wanted, said) else f"Cache-Status is {said!r}, not {wanted!r}"

    def after_rounds(self, requests):
        """Its log and its metrics must have every request, or they were not on."""
        url = f"http://127.0.0.1:{self.admin_port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as reply:
            metrics = reply.read().decode()
        counted = sum(int(n) for n in re.findall(r"^seawall_requests_total{.*} (\d+)$", metrics, re.M))
        dropped = sum(int(n) for n in re.findall(r"^seawall_access_log_dropped_total (\d+)$", metrics, re.M))
        if counted < requests:
            return f"the metrics have {counted} of {requests} requests"
        if dropped:
            return f"{dropped} lines of the access log were dropped"
        deadline = time.monotonic() + 5  # lines wait a moment before they are written
        while (lines := count_lines(self.access_log)) < requests:
            if time.monotonic() > deadline:
                return f"the access log has {lines} lines for {requests} requests"
            time.sleep(0.2)
        return None


class SeawallOverThree(Seawall):
    name = "seawall-pool-3"
    origins = 3
    pool = ('balance = "p2c"\nmax_requests = 1000\nslow_start = "1s"\n'
            'passive = { failures = 5 }\nretry_budget = { share = 0.2, least = 10 }')
    setup = "the same over three origins: p2c, passive health, limits, budget, slow start"


class SeawallOverAThousand(SeawallOverThree):
    name = "seawall-pool-1000"
    origins = 1000
    setup = "the same over a thousand"


class SeawallOnTwoCores(Seawall):
    name = "seawall-2"
    threads = 2
    setup = "the same with threads = 2 on two cores"


def count_lines(path):
    with open(path, "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))

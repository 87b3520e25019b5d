#!/usr/bin/env python3
"""What a memory hit costs as objects, sites and connections grow in number, and what a reload of many sites does to the
requests meanwhile: figures and a plot for docs/performance.md."""

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import report
from cases import Case
from lab import HERE, Lab
from origin import Origin
from peers.seawall import Seawall
from server import cpu_between

BEGIN, END = "<!-- scale:begin -->", "<!-- scale:end -->"
CASE = Case("scale", "memory hit, 1 KiB", "/object/0", ("seawall",))
ROUNDS = 3
CONNECTIONS = 64

RANDOM_OBJECTS = """
local most
function init(args) most = tonumber(args[1]); math.randomseed(os.time()) end
function request() return wrk.format(nil, "/object/" .. math.random(0, most - 1)) end
"""
ALL_OBJECTS = """
local most, n, head, tail
function init(args)
  most, n = tonumber(args[1]), 0
  head, tail = wrk.format(nil, "/object/@"):match("^(.-)@(.*)$")
end
function request()
  n = n + 1
  if n > most then wrk.thread:stop() end
  return head .. (n - 3) % most .. tail -- wrk may ask for one or two before it begins, and not send them
end
"""
RANDOM_SITES = """
local most
function init(args) most = tonumber(args[1]); math.randomseed(os.time()) end
function request() return wrk.format(nil, "/object/0", {Host = "site-" .. math.random(0, most - 1) .. ".example"}) end
"""


class ManySites(Seawall):
    """With so many sites, of one route each, and room for so many objects."""

    sites = 1
    memory_mib = 512

    def command(self):
        command = super().command()
        config = self.dir / "seawall.toml"
        text = re.sub(r'max_size = "\d+MiB"', f'max_size = "{self.memory_mib}MiB"', config.read_text(), count=1)
        if self.sites > 1:
            text = text[:text.index("[site.all]")] + self.site_sections("0s")
        config.write_text(text)
        return command

    def site_sections(self, default_ttl):
        return "".join(
            f'[site.s{n}]\nhosts = ["site-{n}.example"]\n[[site.s{n}.route]]\npath = "/*"\npool = "origin"\n'
            f'cache = {{ mode = "respect", default_ttl = "{default_ttl}" }}\n' for n in range(self.sites))


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seawall", type=Path, default=HERE.parent.parent / "target/release/seawall")
    arguments.add_argument("--seconds", type=int, default=2, help="of each round")
    arguments.add_argument("--objects", type=int, default=1_000_000, help="at most; each takes 1.7 KB of memory")
    arguments.add_argument("--write", type=Path, help="a Markdown file with markers; the plot is put beside it")
    options = arguments.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    curves = {}
    with Lab(options.seawall.resolve()) as lab:
        origin = Origin(lab)
        try:
            origin.start()
            curves["objects in memory"] = objects(lab, origin, options)
            curves["sites"] = sites(lab, origin, options)
            curves["connections"] = connections(lab, origin, options)
            reload = reload_under_load(lab, origin)
        finally:
            origin.stop()
    text = markdown(curves, reload)
    print(text)
    if options.write:
        report.write_between_markers(options.write, text, BEGIN, END)
        (options.write.parent / "scale.svg").write_text(plot(curves))
    return 0


def steps(most, first=1, factor=10):
    found = []
    while first < most:
        found.append(first)
        first *= factor
    return [*found, most]


def started(lab, origin, **settings):
    server = ManySites(lab, origin, CASE)
    server.dir = lab.dir / f"scale-{server.port}"
    for name, value in settings.items():
        setattr(server, name, value)
    server.start()
    return server


def objects(lab, origin, options):
    found = []
    for count in steps(options.objects, first=1000):
        server = started(lab, origin, memory_mib=512 + count * 3 // 1024)
        try:
            # Some more, since what is under way when the load stops may not be stored.
            stored, _ = load(lab, server, ALL_OBJECTS, count + 2 * CONNECTIONS, CONNECTIONS, 1000)
            if stored < count:
                raise SystemExit(f"{stored} of {count} objects were stored in time")
            asked = origin.requests()
            found.append((count, cost(lab, server, RANDOM_OBJECTS, count, options.seconds)))
            if origin.requests() != asked:
                raise SystemExit(f"{origin.requests() - asked} requests were no hits")
        finally:
            server.stop()
    return found


def sites(lab, origin, options):
    found = []
    for count in steps(10_000):
        server = started(lab, origin, sites=count)
        try:
            script = RANDOM_SITES if count > 1 else RANDOM_OBJECTS
            load(lab, server, script, count, 64, 6 if count > 1000 else 2)  # each site has its own object
            found.append((count, cost(lab, server, script, count, options.seconds)))
        finally:
            server.stop()
    return found


def connections(lab, origin, options):
    server, found = started(lab, origin), []
    try:
        for count in steps(20_000):
            # Each round makes its connections, and is to be long beside that.
            seconds = options.seconds + count // 1000
            found.append((count, cost(lab, server, RANDOM_OBJECTS, 1, seconds, count)))
    finally:
        server.stop()
    return found


def cost(lab, server, script, argument, seconds, connections=CONNECTIONS):
    """Microseconds of processor time a hit: the median of some rounds, after one to warm up."""
    load(lab, server, script, argument, connections, seconds)
    costs = []
    for _ in range(ROUNDS):
        before = server.cpu_ns()
        requests, _ = load(lab, server, script, argument, connections, seconds)
        costs.append(cpu_between(before, server.cpu_ns()) / 1000 / requests)
    return statistics.median(costs)


def load(lab, server, script, argument, connections, seconds):
    """Requests, and the 99th percentile of their time in milliseconds."""
    path = lab.dir / "scale.lua"
    path.write_text((HERE / "lua" / "done.lua").read_text() + script)
    said = run(["taskset", "-c", lab.load_core, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency",
                "--timeout", "20s", "-s", path, server.url("/object/0"), "--", argument])
    requests, _, _, errors = map(int, re.search(r"^RESULT (\d+) (\d+) (\d+) (\d+)$", said, re.M).groups())
    if errors > requests / 1000 + connections / 100:
        raise SystemExit(f"{errors} of {requests} requests failed")
    time, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", said).groups()
    return requests, float(time) * {"us": 1e-3, "ms": 1, "s": 1e3}[unit]


def reload_under_load(lab, origin):
    """Seconds that reloads of 10,000 changed sites take, and the 99th percentiles without and with them."""
    server = started(lab, origin, sites=10_000)
    try:
        load(lab, server, RANDOM_SITES, server.sites, CONNECTIONS, 6)
        _, before = load(lab, server, RANDOM_SITES, server.sites, CONNECTIONS, 6)
        took, config = [], server.dir / "seawall.toml"
        text = config.read_text()
        rest = text[:text.index("[site.s0]")]

        def reload():
            for ttl in ("1s", "2s", "3s"):
                time.sleep(1)
                config.write_text(rest + server.site_sections(ttl))
                asked = time.monotonic()
                request = urllib.request.Request(f"http://127.0.0.1:{server.admin_port}/v1/reload", method="POST")
                urllib.request.urlopen(request, timeout=60).read()
                took.append(time.monotonic() - asked)

        reloading = threading.Thread(target=reload)
        reloading.start()
        _, meanwhile = load(lab, server, RANDOM_SITES, server.sites, CONNECTIONS, 6)
        reloading.join()
        return statistics.median(took), before, meanwhile
    finally:
        server.stop()


def run(command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL, timeout=1200)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def markdown(curves, reload):
    took, before, meanwhile = reload
    lines = [f"{report.processor()}, {os.cpu_count()} cores; one thread; 1 KiB, HTTP/1.1, {CONNECTIONS} connections unless "
             f"they are what is counted; medians of {ROUNDS} rounds; log and metrics on.", "", "![cost of a hit](scale.svg)", ""]
    for name, curve in curves.items():
        lines += ["| " + name + " | " + " | ".join(f"{count:,}" for count, _ in curve) + " |",
                  "|---|" + "---|" * len(curve),
                  "| µs per hit | " + " | ".join(f"{cost:.1f}" for _, cost in curve) + " |", ""]
    lines += [f"A reload of 10,000 sites, each changed, under that load on the node's one thread: {took:.2f} s; 99th percentile "
              f"of the requests {before:.1f} ms without, {meanwhile:.1f} ms over six seconds with three reloads.", ""]
    return "\n".join(lines)


def plot(curves):
    """One panel a curve, the number on a logarithmic scale."""
    width, height, left, top, bottom = 260, 170, 44, 28, 34
    most = max(cost for curve in curves.values() for _, cost in curve) * 1.15
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{(width + left) * len(curves)}" height="{height + top + bottom}" '
             'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>']
    for panel, (name, curve) in enumerate(curves.items()):
        x0, inner = panel * (width + left) + left, width - 24
        parts.append(f'<text x="{x0}" y="16">us CPU a hit, by {name}</text>')
        for tick in range(0, int(most) + 1, 2):
            y = top + height - tick / most * height
            parts.append(f'<path d="M{x0} {y:.1f}h{inner}" stroke="#ddd"/><text x="{x0 - 6}" y="{y + 4:.1f}" '
                         f'text-anchor="end">{tick}</text>')
        points = []
        for place, (count, cost) in enumerate(curve):
            x = x0 + 8 + place * (inner - 24) / max(1, len(curve) - 1)
            points.append(f"{x:.1f},{top + height - cost / most * height:.1f}")
            label = f"{count // 1000}k" if count >= 1000 else str(count)
            parts.append(f'<text x="{x:.1f}" y="{top + height + 16}" text-anchor="middle">{label}</text>')
        parts.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="#0a58ca" stroke-width="2"/>')
        parts += [f'<circle cx="{point.split(",")[0]}" cy="{point.split(",")[1]}" r="3" fill="#0a58ca"/>' for point in points]
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    sys.exit(main())

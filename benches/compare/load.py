"""The load generators: wrk, and h2load for HTTP/2, for what wrk cannot, and for asking for each of many paths once."""

import re
import resource
import subprocess
import sys
from dataclasses import dataclass
from itertools import count

from lab import HERE
from server import Failed

GRACE_SECONDS = 60  # beyond the time that a load generator was told to run
_runs = count()


@dataclass
class Run:
    requests: int
    bytes: int
    seconds: float
    errors: int


def run(lab, peer, case, seconds):
    return h2load(peer, case, seconds) if case.generator == "h2load" else wrk(lab, peer, case, seconds)


def wrk(lab, peer, case, seconds):
    cores = load_cores(lab, case)
    said = _run(["taskset", "-c", ",".join(map(str, cores)), "wrk", f"-t{len(cores)}", f"-c{case.connections}",
                 f"-d{seconds}s", "--timeout", "20s", "-s", _script(lab, case), *_headers(case), peer.url(case.path),
                 *_script_arguments(lab, case)], seconds)
    result = re.search(r"^RESULT (\d+) (\d+) (\d+) (\d+)$", said, re.M)
    if not result:
        raise Failed(f"wrk said:\n{said}")
    requests, size, microseconds, errors = map(int, result.groups())
    return Run(requests, size, microseconds / 1e6, errors)


def h2load(peer, case, seconds):
    version = [] if case.h2 else ["--h1"]
    data = ["-d", peer.dir / "posted"] if case.script else []  # as it was checked
    said = _run(["h2load", *version, *data, "-t1", f"-c{case.connections}", f"-m{case.streams}", "-D", seconds,
                 # As wrk and the OpenSSL that it is linked to prefer.
                 "--tls13-ciphers=TLS_AES_256_GCM_SHA384", *_headers(case), peer.url(case.path)], seconds)
    if case.h2 and "Application protocol: h2\n" not in said:
        raise Failed(f"not HTTP/2:\n{said}")
    time = float(re.search(r"^finished in ([\d.]+)s", said, re.M)[1])
    succeeded = int(re.search(r"(\d+) succeeded", said)[1])
    failed = int(re.search(r"(\d+) failed", said)[1])
    # Those under way at the end count as failed.
    return Run(succeeded, 0, time, max(0, failed - case.connections * case.streams))


def echo(lab, peer, connections, seconds):
    said = _run(["taskset", "-c", lab.load_core, sys.executable, HERE / "echo.py", "load", peer.port, connections,
                 seconds], seconds)
    result = re.search(r"^RESULT (\d+) ([\d.]+)$", said, re.M)
    if not result:
        raise Failed(f"echo.py said:\n{said}")
    return Run(int(result[1]), 0, float(result[2]), 0)


def ask_for_each(peer, paths, list_file):
    """Asks for each of the paths once, in their order, over one plain connection."""
    list_file.write_text("".join(f"{peer.url(path)}\n" for path in paths))
    said = _run(["h2load", "--h1", "-t1", "-c1", "-m1", "-n", len(paths), "-i", list_file], 120)
    if f"{len(paths)} succeeded" not in said:
        raise Failed(f"{peer.name} did not answer {len(paths)} requests:\n{said}")


def cpu_seconds():
    """Processor time of all load generators that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def load_cores(lab, case):
    """Those that the server does not use. With two in use of two, the load has to share them."""
    if case.kind != "cores":
        return [lab.load_core]
    return lab.cores[2:4] if len(lab.cores) >= 4 else lab.cores


def _script(lab, case):
    parts = ["done"] + ([case.script] if case.script else [])
    path = lab.dir / f"{case.name}.lua"
    path.write_text("\n".join((HERE / "lua" / f"{part}.lua").read_text() for part in parts))
    return path


def _script_arguments(lab, case):
    if case.script == "new_urls":
        return ["--", f"/miss/{next(_runs)}"]  # so that no run asks for what another has had stored
    if case.paths:
        path = lab.dir / f"{case.name}.paths"
        path.write_text("".join(f"{path}\n" for path in case.paths))
        return ["--", path]
    return ["--", case.script_argument] if case.script_argument else []


def _headers(case):
    return [word for line in case.headers + case.conditions for word in ("-H", line)]


def _run(command, seconds):
    try:
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False,
                              stdin=subprocess.DEVNULL, timeout=seconds + GRACE_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{command[0]} did not end") from error
    if done.returncode:
        raise Failed(f"{' '.join(map(str, command))}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout

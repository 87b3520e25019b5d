#!/usr/bin/env python3
"""Seawall beside other servers, on the same work: processor time a request, requests a second, memory.

Each server has one worker on one core, the load generator another; all have the same objects from the same origin.
In each round they are measured one after the other (A B C, A B C, ...), so that whatever else the machine does meets
all of them. A server that does not do what a case is about is reported as failed, and the others are measured."""

import argparse
import os
import re
import shutil
import signal
import sys
from pathlib import Path

sys.dont_write_bytecode = True  # no __pycache__ in the source tree

import report
from cases import all_cases
from check import check, warm
from lab import HERE, Lab
from measure import measure, requests_under_load
from origin import Origin
from peers import PEERS
from server import Failed

TOOLS = {"nginx": "nginx-light", "wrk": "wrk", "h2load": "nghttp2-client", "curl": "curl", "openssl": "openssl",
         "taskset": "util-linux"}
MEMORY_KINDS = ("idle", "objects")
WARM_UP_SECONDS = 1


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of each case (default: 5)")
    parser.add_argument("--seconds", type=int, default=3, help="of load for each server in a round (default: 3)")
    parser.add_argument("--quick", action="store_true",
                        help="one round of one second, a tenth of the connections and objects")
    parser.add_argument("--only", nargs="+", metavar="CASE", help="these cases; a name may end in *")
    parser.add_argument("--peers", nargs="+", metavar="PEER", choices=PEERS, help=f"of {', '.join(PEERS)}")
    parser.add_argument("--idle", type=int, default=10_000, help="idle connections (default: 10000)")
    parser.add_argument("--objects", type=int, default=100_000, help="stored objects (default: 100000)")
    parser.add_argument("--seawall", type=Path, default=HERE.parent.parent / "target/release/seawall",
                        help="the binary (default: target/release/seawall)")
    parser.add_argument("--write", type=Path, metavar="FILE",
                        help=f"put the tables between {report.BEGIN} and {report.END}")
    parser.add_argument("--list", action="store_true", help="the names of the cases")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 1
        options.idle, options.objects = options.idle // 10, options.objects // 10
    return options


def main():
    options = arguments()
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # where Debian has servers, and not every user looks
    if options.list:
        for case in all_cases({"/1k": ""}):
            print(f"{case.name:14} {case.title}")
        return 0
    missing = sorted({package for tool, package in TOOLS.items() if not shutil.which(tool)})
    if missing:
        raise SystemExit(f"missing packages: {' '.join(missing)}")
    if options.write:
        report.check_markers(options.write)
    # So that the servers are stopped and the directory removed on the way out.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit("stopped"))

    results = []
    with Lab(options.seawall.resolve()) as lab:
        peers = available_peers(lab, options)
        versions = {name: peer.version(lab) for name, peer in peers.items()}
        print(f"processor: {report.processor()}, {len(lab.cores)} cores; load average {os.getloadavg()[0]:.1f}")
        print("\n".join(f"{name}: {version}" for name, version in versions.items()))
        origin = Origin(lab)
        try:
            origin.start()
            for case in chosen_cases(origin, options):
                results.append(run_case(lab, case, origin, peers, options))
                report.to_terminal(results[-1])
        finally:
            origin.stop()
    if options.write:
        report.write_between_markers(options.write, report.markdown(results, peers, versions, options))
    failed = [f"{result.case.name}/{peer}" for result in results for peer in result.failures]
    if failed:
        print(f"\nFAILED: {' '.join(failed)}")
    return 1 if failed else 0


def available_peers(lab, options):
    peers = {name: peer for name, peer in PEERS.items() if not options.peers or name in options.peers}
    for name in list(peers):
        if not peers[name].installed(lab):
            print(f"{name} is left out: it is not installed ({peers[name].package or lab.seawall})", file=sys.stderr)
            del peers[name]
    return peers


def chosen_cases(origin, options):
    cases = all_cases({"/1k": origin.etag("/1k")})
    if not options.only:
        return cases
    patterns = [re.compile(re.escape(name).replace(r"\*", ".*")) for name in options.only]
    chosen = [case for case in cases if any(pattern.fullmatch(case.name) for pattern in patterns)]
    if not chosen:
        raise SystemExit(f"no such case; there are: {' '.join(case.name for case in cases)}")
    return chosen


def run_case(lab, case, origin, peers, options):
    """All servers are started, warmed and checked; then come the rounds."""
    result = report.Result(case, len(lab.cores))
    running, answered = {}, {}

    def attempt(name, action):
        """Whatever is wrong with one server is said, and ends only its part in the case."""
        try:
            return action()
        except Failed as failure:
            result.failures[name] = str(failure)
            result.samples.pop(name, None)
            print(f"!! {case.name}: {name} FAILED: {failure}", file=sys.stderr)
            if name in running:
                running.pop(name).stop()
            return None

    def prepare(name):
        running[name] = peers[name](lab, origin, case)
        running[name].start()
        answered[name] = 0
        if case.kind == "echo":
            return  # the load compares what comes back
        warm(running[name], case, origin)
        check(running[name], case, origin)
        if case.kind not in MEMORY_KINDS:
            answered[name] += requests_under_load(lab, running[name], case, origin, WARM_UP_SECONDS)[0]

    def one_round(name):
        requests, sample = measure(lab, running[name], case, origin, options)
        answered[name] += requests
        result.samples.setdefault(name, []).append(sample)

    def conclude(name):
        wrong = running[name].after_rounds(answered[name])
        if wrong:
            raise Failed(wrong)

    try:
        for name in case.peers:
            if name in peers:
                attempt(name, lambda: prepare(name))
        # Memory is taken from a server that has just started, and hardly differs from one time to the next.
        for _ in range(1 if case.kind in MEMORY_KINDS else options.rounds):
            for name in list(running):
                attempt(name, lambda: one_round(name))
        for name in list(running):
            attempt(name, lambda: conclude(name))
    finally:
        for peer in running.values():
            peer.stop()
        shutil.rmtree(lab.dir / case.name, ignore_errors=True)
        shutil.rmtree(lab.memory_dir / case.name, ignore_errors=True)
    return result


if __name__ == "__main__":
    sys.exit(main())

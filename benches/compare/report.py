"""The figures for a terminal, and as Markdown for the manual."""

import datetime
import os
import platform
import re
from pathlib import Path

from measure import summary

BEGIN, END = "<!-- compare:begin -->", "<!-- compare:end -->"
OURS = "seawall"


class Result:
    """What came out of one case."""

    def __init__(self, case, cores):
        self.case = case
        self.cores = cores
        self.samples = {}   # peer: list of Sample
        self.failures = {}  # peer: why there are none

    def summaries(self):
        return {peer: summary(samples) for peer, samples in self.samples.items() if samples}

    def verdicts(self):
        """(against whom, figure, target, whether it is met) for each target that can be told."""
        found, case = self.summaries(), self.case
        if OURS not in found:
            return
        for family, target in case.targets.items():
            peers = [peer for peer in found if peer.split("-")[0] == family]
            if peers:
                best = min(peers, key=lambda peer: found[peer].cost)
                ratio = found[OURS].cost / found[best].cost
                yield best, f"{ratio:.2f}", f"{target:.2f}", ratio <= target
        if case.limit is not None:
            yield "", f"{found[OURS].cost:,.0f} bytes", f"{case.limit:,.0f} bytes", found[OURS].cost <= case.limit
        if case.at_least is not None and (speedup := self.speedup(found)):
            yield "one core", f"{speedup:.2f}", f"at least {case.at_least:.2f}", speedup >= case.at_least

    def speedup(self, found):
        """Requests of two cores for those of one. Where the load has no cores of its own, requests a second say
        nothing: then what two busy cores could do at the processor time that a request takes there."""
        two = found.get("seawall-2")
        if two is None:
            return None
        return two.rate / found[OURS].rate if self.cores >= 4 else 2 * found[OURS].cost / two.cost

    def ratio(self, found, peer):
        if peer == OURS or OURS not in found or not found[peer].cost:
            return None
        return found[OURS].cost / found[peer].cost

    def is_memory(self):
        return self.case.kind in ("idle", "objects")


def to_terminal(result):
    case, found = result.case, result.summaries()
    unit = "bytes" if result.is_memory() else "us CPU"
    print(f"\n{case.name}: {case.title}")
    print(f"  {'':14}{unit:>11}{'least':>11}{'most':>11}{'requests/s':>13}{'load us':>10}{'seawall/it':>12}")
    for peer in case.peers:
        if peer in result.failures:
            print(f"  {peer:14}FAILED: {result.failures[peer].splitlines()[0]}")
        elif peer in found:
            s, ratio = found[peer], result.ratio(found, peer)
            print(f"  {peer:14}{figure(s.cost):>11}{figure(s.least):>11}{figure(s.most):>11}"
                  f"{f'{s.rate:,.0f}' if s.rate else '':>13}{figure(s.load) if s.load else '':>10}"
                  f"{f'{ratio:.2f}' if ratio else '':>12}")
    for peer, is_now, target, met in result.verdicts():
        print(f"  target {f'beside {peer} ' if peer else ''}{target}: {is_now}, {'met' if met else 'NOT MET'}")


def figure(value):
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}"


def markdown(results, peers, versions, options):
    """What goes between the markers."""
    used = [name for name in peers if any(name in result.case.peers for result in results)]
    rounds = f"{options.rounds} rounds" if options.rounds > 1 else "one round"
    lines = [
        f"Measured on {datetime.date.today()} with `make bench-compare`: {processor()}, {os.cpu_count()} cores, "
        f"{memory_gib()} GiB, Linux {platform.release()}; {rounds} of {options.seconds} s, all servers in turn in each. "
        "What counts is processor time: requests a second depend on what else the machine does.", "",
        "| server | version | set up with |", "|---|---|---|",
        *(f"| {name} | {versions[name]} | {peers[name].setup} |" for name in used), "",
        "### Targets", "", "| case | compared with | ratio | target (at most) | verdict |", "|---|---|---|---|---|"]
    for result in results:
        for peer, is_now, target, met in result.verdicts():
            lines.append(f"| {result.case.title} | {peer} | {is_now} | {target} | {'met' if met else '**not met**'} |")
    lines += ["", "### Processor time", "",
              "Microseconds a request: the median of the rounds, the least and the most; requests a second; what the "
              "load generator took for a request (over loopback, either side may do the work of sending: of large "
              "bodies the sum says more); and Seawall's processor time divided by the other's.", "",
              "| case | server | µs | least to most | requests/s | load µs | ratio |", "|---|---|---:|---:|---:|---:|---:|"]
    lines += [row for result in results if not result.is_memory() for row in rows(result)]
    if any(result.is_memory() for result in results):
        lines += ["", "### Memory", "", f"Resident bytes for each, with {options.idle:,} connections and "
                  f"{options.objects:,} objects; measured once.", "", "| case | server | bytes |", "|---|---|---:|"]
        lines += [row for result in results if result.is_memory() for row in rows(result)]
    return "\n".join(lines)


def rows(result):
    found, title = result.summaries(), result.case.title
    for peer in result.case.peers:
        if peer not in result.failures and peer not in found:
            continue  # it was not asked for
        if peer in result.failures:
            yield f"| {title} | {peer} | failed |" + ("" if result.is_memory() else " | | | |")
        else:
            s, ratio = found[peer], result.ratio(found, peer)
            if result.is_memory():
                yield f"| {title} | {peer} | {figure(s.cost)} |"
            else:
                yield (f"| {title} | {peer} | {figure(s.cost)} | {figure(s.least)} to {figure(s.most)} | "
                       f"{s.rate:,.0f} | {figure(s.load)} | {f'{ratio:.2f}' if ratio else ''} |")
        title = ""


def check_markers(path):
    """Before an hour is spent on what then cannot be written."""
    if not path.exists() or not re.search(f"{BEGIN}.*{END}", path.read_text(), re.S):
        raise SystemExit(f"{path} has no {BEGIN} with a {END} after it")


def write_between_markers(path, text, begin=BEGIN, end=END):
    old = path.read_text()
    before, rest = old.split(begin, 1)
    after = rest.split(end, 1)[1]
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def processor():
    name = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    return " ".join(name[1].split()) if name else platform.machine()


def memory_gib():
    kib = int(re.search(r"^MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text(), re.M)[1])
    return round(kib / 1024 / 1024)

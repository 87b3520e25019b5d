#!/usr/bin/env python3
"""Tries the examples of the moving guides: the same requests to the peer and to Seawall must get the same answers.

    run.py [--seawall BINARY] [-j N] GUIDE.md...

guide.py says what a guide is. Needs curl and openssl; a peer that is not installed is skipped. The exit status is 1 if
an example failed. Each expectation is also tried in a form that must not hold, see expect.py.

With --hollow the snippets are left out. Then each example must fail, on either side: one that passes all the same says
nothing about its snippet.
"""
import argparse
import concurrent.futures
import dataclasses
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import traceback

import guide
from certs import Certs
from peers import PEERS, Seawall
from ports import Ports
from trial import Failed, Trial

BUILT = pathlib.Path(__file__).resolve().parents[2] / "target/release/seawall"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("guides", nargs="+", metavar="GUIDE.md")
    parser.add_argument("--seawall", default=str(BUILT), metavar="BINARY", help="default: %(default)s")
    parser.add_argument("-j", type=int, default=2 * (os.cpu_count() or 1), metavar="N", help="runs at one time")
    parser.add_argument("--only", default="", metavar="WORD", help="examples with WORD in their title")
    parser.add_argument("--hollow", action="store_true", help="leave the snippets out: each example must fail")
    parser.add_argument("-v", action="store_true", help="name what passes as well")
    options = parser.parse_args()
    seawall = shutil.which(options.seawall)
    if not seawall:
        parser.error(f"{options.seawall} is no program")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        found = [example for path in options.guides for example in guide.read(path)]
    except (guide.Mistake, OSError) as mistake:
        sys.exit(str(mistake))
    examples = [example for example in found if options.only.lower() in example.title.lower()]
    jobs, skipped = jobs_of(examples, Seawall(os.path.abspath(seawall)), options.hollow)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="guides-") as directory:
        certs, ports = Certs(directory), Ports()
        with concurrent.futures.ThreadPoolExecutor(options.j) as pool:
            try:
                waiting = [(job, pool.submit(attempt, *job, certs, ports)) for job in jobs]
                for (example, side, *_), future in waiting:
                    failed += report(example, side, future.result(), options)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    for program, count in skipped.items():
        print(f"{program} is not installed: {count} run{'s' if count > 1 else ''} skipped")
    kind = "hollow" if options.hollow else "failed"
    print(f"tests/guides: {len(examples)} examples, {len(jobs)} runs, {failed} {kind}")
    sys.exit(1 if failed else 0)


def jobs_of(examples, seawall, hollow):
    """What to run, and how many runs are skipped for each program that is not installed."""
    jobs, skipped = [], {}
    for example in examples:
        sides = [("peer", PEERS[example.peer], example.theirs)] if example.peer else []
        for side, server, snippet in [*sides, ("seawall", seawall, example.ours)]:
            if not server.installed():
                skipped[server.program] = skipped.get(server.program, 0) + 1
            elif not hollow:
                jobs.append((example, side, server, snippet, seawall))
            elif emptied := without_snippet(example, server, snippet):
                jobs.append((emptied, side, server, "", seawall))
    return jobs, skipped


def without_snippet(example, server, snippet):
    """The example without what is said of the server, or None if its snippet says no more than the frame."""
    emptied = dataclasses.replace(example, frame="", options="")
    same = server.frame(emptied, "") == server.frame(example, snippet) and not example.options
    return None if same else emptied


def attempt(example, side, server, snippet, seawall, certs, ports):
    """Tries one example on one server: where and why it failed, or None."""
    line = example.line
    try:
        with Trial(example, side, server, seawall.program, certs, ports) as trial:
            trial.prepare(snippet)
            for step in example.steps:
                line = step.line
                trial.step(step.text)
    except Failed as why:
        return line, str(why)
    except Exception:                           # a mistake in the guide or here; the other examples go on
        return line, traceback.format_exc()
    return None


def report(example, side, trouble, options):
    """Prints what became of a run, and says whether that counts as a failure."""
    line, who = trouble[0] if trouble else example.line, example.peer if side == "peer" else side
    where = f"{os.path.basename(example.guide)}:{line}: {example.title} [{who}]"
    if options.hollow:
        if not trouble:
            print(f"HOLLOW {where}: passes without its snippet", flush=True)
        return not trouble
    if trouble:
        print(f"FAIL {where}\n    " + trouble[1].strip().replace("\n", "\n    "), flush=True)
    elif options.v:
        print(f"ok {where}", flush=True)
    return bool(trouble)


if __name__ == "__main__":
    main()

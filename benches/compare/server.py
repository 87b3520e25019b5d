"""A server process on its core: started, waited for, asked for its processor time and memory, stopped."""

import os
import signal
import socket
import subprocess
import time

READY_SECONDS = 30
STOP_SECONDS = 5


class Failed(Exception):
    """A server, or a measurement of it, is not what it should be."""


class Server:
    """Subclasses say `name` and `command()`, which writes the configuration and returns the command line."""

    name = ""

    def __init__(self, lab):
        self.lab = lab
        self.dir = lab.dir / self.name
        self.port = lab.free_port()
        self.cores = [lab.server_core]
        self.process = None

    def command(self):
        raise NotImplementedError

    def start(self):
        self.dir.mkdir(parents=True, exist_ok=True)
        command = ["taskset", "-c", ",".join(map(str, self.cores)), *map(str, self.command())]
        with open(self.dir / "output", "wb") as output:
            # A session of its own: whatever the server starts can be ended with it.
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                            start_new_session=True, cwd=self.dir)
        deadline = time.monotonic() + READY_SECONDS
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"{self.name} does not listen:\n{self.output()}")
            time.sleep(0.05)

    def ready(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def output(self):
        """The last of what it said."""
        return (self.dir / "output").read_text(errors="replace")[-2000:]

    def stop(self):
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)  # what is left of its session
        except ProcessLookupError:
            pass
        self.process.wait()

    def pids(self):
        """The process and all that descend from it."""
        parents = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    with open(f"/proc/{entry}/stat") as stat:
                        # The command's name, in parentheses, may hold anything.
                        parents[int(entry)] = int(stat.read().rpartition(")")[2].split()[1])
                except OSError:
                    continue  # it has just ended
        family = [self.process.pid]
        for pid in family:
            family += [child for child, parent in parents.items() if parent == pid]
        return family

    def cpu_ns(self):
        """Processor time of each process, all threads, also those that have ended, in nanoseconds.

        This is the kernel's clock of a process, from which it also makes `utime` and `stime` in /proc/PID/stat, but
        those are rounded to 10 ms. The number of the clock is made of the process' as clock_getcpuclockid(3) does."""
        times = {}
        for pid in self.pids():
            try:
                times[pid] = time.clock_gettime_ns((~pid << 3) | 2)
            except OSError:
                continue
        return times

    def resident_bytes(self):
        total = 0
        for pid in self.pids():
            with open(f"/proc/{pid}/status") as status:
                total += sum(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS:"))
        return total


def cpu_between(before, after):
    """A process that was not there before counts from its start; one that has ended since does not count."""
    return sum(ns - before.get(pid, 0) for pid, ns in after.items())

"""Where a run takes place: its directory, its cores, its ports, its certificate. All of it is gone afterwards."""

import os
import random
import resource
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


class Lab:
    """A run's directory and cores. The measured server has the first core; the load generator the second; the origin
    the last, which on a machine of two is the load generator's. This process moves to the load generator's core, so
    that the measured one is left alone."""

    def __init__(self, seawall):
        self.cores = sorted(os.sched_getaffinity(0))
        if len(self.cores) < 2:
            raise SystemExit("two cores are needed: one for the server that is measured, one for the load")
        self.server_core, self.load_core, self.origin_core = self.cores[0], self.cores[1], self.cores[-1]
        os.sched_setaffinity(0, {self.load_core})
        allow_descriptors()
        self.seawall = seawall
        self.dir = Path(tempfile.mkdtemp(prefix="compare-"))
        self.dir.chmod(0o755)  # Traffic Server works as a user of its own
        # A cache that can only store files is given memory to store them in where others store in memory.
        in_memory = "/dev/shm" if os.path.isdir("/dev/shm") else self.dir
        self.memory_dir = Path(tempfile.mkdtemp(prefix="compare-", dir=in_memory))
        self.certificate, self.key = self.dir / "cert.pem", self.dir / "key.pem"
        self._ports = set()

    def __enter__(self):
        try:
            self._make_certificate()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.memory_dir, ignore_errors=True)
        shutil.rmtree(self.dir, ignore_errors=True)

    def free_port(self):
        """A port below those that the kernel gives to clients: else a connection of the load might take it first."""
        while True:
            port = random.randrange(10000, 32000)
            if port in self._ports:
                continue
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            self._ports.add(port)
            return port

    def _make_certificate(self):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "7",
             "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
             "-keyout", self.key, "-out", self.certificate], check=True, capture_output=True)
        self.key.chmod(0o644)  # thrown away after the run
        # HAProxy and Traffic Server read both from one file.
        (self.dir / "both.pem").write_bytes(self.certificate.read_bytes() + self.key.read_bytes())


def allow_descriptors(wanted=65536):
    """Ten thousand connections need as many descriptors on both sides."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in ((wanted, max(hard, wanted)), (hard, hard)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
            return
        except (ValueError, OSError):
            continue

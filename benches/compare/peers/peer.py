"""What all peers have in common."""

import shutil
import subprocess

from server import Server

# Of objects in memory. Large enough for all that hits; a run of misses fills it, so that making room is counted too.
MEMORY_MIB = 512


class Peer(Server):
    program = ""       # the command that is run
    package = ""       # the Debian package that has it
    has_tls = True
    setup = ""         # one line for the report: how it was configured

    def __init__(self, lab, origin, case):
        super().__init__(lab)
        self.origin, self.case = origin, case
        self.tls_port = lab.free_port() if self.has_tls else None
        self.dir = lab.dir / case.name / self.name

    def url(self, path):
        scheme, port = ("https", self.tls_port) if self.case.tls else ("http", self.port)
        return f"{scheme}://127.0.0.1:{port}{path}"

    @property
    def on_disk(self):
        return self.case.storage == "disk"

    @property
    def access_log(self):
        """The file that it logs to, if any."""
        return self.dir / "access.log"

    def prove(self, head):
        """Why the answer with this head is not what the case is about, by what the server itself says of it."""
        return None

    def after_rounds(self, requests):
        """What is wrong now that it has answered so many requests."""
        if self.access_log and not (self.access_log.exists() and self.access_log.stat().st_size):
            return "it has not logged anything"
        return None

    @classmethod
    def installed(cls, lab):
        return shutil.which(cls.program) is not None

    @classmethod
    def version(cls, lab):
        return package_version(cls.package)


def package_version(package):
    found = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", package],
                           capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown version"

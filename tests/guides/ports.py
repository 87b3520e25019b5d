"""Free ports of loopback, in place of those that guides write.

A process has a block of ports to itself: it holds the first one for as long as it runs, so that two of them at the same
time do not choose the same. All are below those that the kernel gives to connections.
"""
import itertools
import re
import socket
import threading

WRITTEN = (8080, 8443, 3000, 3001, 3002, 9180, 8404, 2019)
FIRST, LAST, BLOCK = 20000, 32000, 400


class Ports:
    def __init__(self):
        for first in range(FIRST, LAST, BLOCK):
            self.held = socket.socket()
            try:
                self.held.bind(("127.0.0.1", first))
                self.held.listen(1)
                break
            except OSError:
                self.held.close()
        else:
            raise RuntimeError("no free block of ports")
        self.next, self.lock, self.taken = itertools.cycle(range(first + 1, first + BLOCK)), threading.Lock(), set()

    def take(self):
        """A free port for each that guides write."""
        with self.lock:
            return {written: self.one() for written in WRITTEN}

    def one(self):
        for _ in range(BLOCK):
            port = next(self.next)
            if port in self.taken:
                continue
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            self.taken.add(port)
            return port
        raise RuntimeError("no free port")

    def give_back(self, taken):
        with self.lock:
            self.taken.difference_update(taken.values())


def replace(text, ports):
    """`text` with each number in `ports` replaced by what stands for it there."""
    return re.sub(rf"(?<![\w.])({'|'.join(map(str, ports))})(?!\w|\.\d)", lambda found: str(ports[int(found[1])]), text)

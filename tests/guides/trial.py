"""One example, tried on one server: a directory, ports, origins and a process of its own."""
import concurrent.futures
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

import client
import expect
import peers
import ports
from origin import Origin

START, PATIENCE, SETTLE = 20.0, 20.0, 5.0
DIRECTORIES = ("etc/ssl", "etc/seawall", "etc/nginx", "etc/haproxy/certs", "etc/varnish", "etc/caddy", "srv", "home",
               "var/run", "var/cache/nginx", "var/lib/nginx", "var/lib/varnish", "var/lib/seawall", "var/log/nginx",
               "var/log/caddy", "var/log/seawall")


class Failed(Exception):
    """Why an example does not hold."""


class Trial:
    def __init__(self, example, side, server, seawall, certs, numbers):
        self.example, self.side, self.server, self.seawall, self.certs = example, side, server, seawall, certs
        self.numbers, self.ports = numbers, numbers.take()
        self.written = {free: written for written, free in self.ports.items()}
        self.root = tempfile.mkdtemp(prefix="guide-")
        self.config = self.root + server.config
        self.origins, self.process = {}, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process:
            end(self.process)
        for origin in self.origins.values():
            origin.stop()
        self.numbers.give_back(self.ports)
        shutil.rmtree(self.root, ignore_errors=True)

    # Texts of guides have the ports and paths of guides.

    def in_use(self, text):
        """A text of the guide's, with this run's ports and paths."""
        text = ports.replace(text, self.ports)
        return re.sub(r"(?<![\w/.})])/(?=(etc|srv|var)(/|\b))", lambda _: self.root + "/", text)

    def as_written(self, text):
        """A text from a server, with the ports of guides."""
        return text and ports.replace(text, self.written)

    # Before the first step.

    def prepare(self, snippet):
        """Starts the server with the snippet, and waits until it listens."""
        for directory in DIRECTORIES:
            os.makedirs(f"{self.root}/{directory}")
        for name, cert, key in self.certs.pairs:
            shutil.copy(cert, f"{self.root}/etc/ssl/{name}.pem")
            shutil.copy(key, f"{self.root}/etc/ssl/{name}.key")
            with open(cert) as one, open(key) as other:
                write(f"{self.root}/etc/haproxy/certs/{name}.pem", one.read() + other.read())
        for path, content in self.example.files.items():
            write(self.in_use(path), content)
        text = self.in_use(self.server.frame(self.example, snippet))
        write(self.config, text)
        self.check(text)
        for written in (3000, 3001, 3002):
            self.origins[written] = Origin(written, self.ports[written])
        command = self.server.start(self.config, self.root, self.ports[8080], self.in_use(self.example.options))
        with open(f"{self.root}/stdout", "wb") as out, open(f"{self.root}/stderr", "wb") as errors:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=errors,
                                            cwd=self.root, env=self.environment(), start_new_session=True)
        wanted = [port for port in self.asked() if str(self.ports[port]) in text + " ".join(command)]
        deadline = time.monotonic() + START
        while not all(self.listens(port) for port in wanted):
            if time.monotonic() > deadline or self.process.poll() is not None:
                with open(f"{self.root}/stderr", errors="replace") as file:
                    raise Failed(f"it does not start: {file.read()[-2000:]}")
            time.sleep(0.03)

    def check(self, text):
        done = self.run(self.server.check(self.config, self.root))
        said = self.as_written(done.stdout + done.stderr).strip()
        if done.returncode or (self.side == "seawall" and "warning" in said):
            raise Failed(f"the configuration is not accepted:\n{said}\n---\n{self.as_written(text)}")

    def asked(self):
        """The ports that clients connect to in this side's steps."""
        other = "only peer: " if self.side == "seawall" else "only seawall: "
        texts = [step.text for step in self.example.steps if not step.text.startswith(other)]
        targets = [found[1] for text in texts if (found := re.match(r"(?:[a-z: ]+)?[A-Z]+ (/|https?:)", text))]
        return {8443 if target == "https:" else 8080 for target in targets}

    def listens(self, port):
        try:
            socket.create_connection(("127.0.0.1", self.ports[port]), 1).close()
            return True
        except OSError:
            return False

    def environment(self):
        home = f"{self.root}/home"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SEAWALL", "XDG_"))}
        return {**kept, "HOME": home, "XDG_DATA_HOME": home, "XDG_CONFIG_HOME": home,
                "SEAWALL_ADMIN": f"http://127.0.0.1:{self.ports[9180]}"}

    def run(self, command):
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=2 * PATIENCE, env=self.environment(), cwd=self.root)

    def read_log(self):
        return self.server.read_log(self.root)

    # The steps.

    def step(self, text):
        if only := re.match(r"only (peer|seawall): ", text):
            if only[1] != self.side:
                return
            text = text[only.end():]
        if text.startswith("$ "):
            self.command(text[2:])
        elif change := re.fullmatch(r"edit (.*) => (.*)", text):
            self.edit(self.in_use(change[1]), self.in_use(change[2]))
        elif pause := re.fullmatch(r"wait ([\d.]+)", text):
            time.sleep(float(pause[1]))
        elif order := re.fullmatch(r"(stop|start|sick|well|tls) (\d+)", text):
            self.change(order[1], self.origins[int(order[2])])
        elif text.startswith("meanwhile "):
            ask = client.parse(text.removeprefix("meanwhile "))
            before = expect.counted("origin", 0, self.origins)
            for _ in range(ask.times):
                threading.Thread(target=self.send, args=(ask,), daemon=True).start()
            self.wait_for(lambda: expect.counted("origin", 0, self.origins) >= before + ask.times)
        elif text.startswith("until "):
            self.ask(text.removeprefix("until "), time.monotonic() + PATIENCE)
        else:
            self.ask(text)

    def change(self, order, origin):
        match order:
            case "stop":
                origin.stop()
            case "start":
                origin.start()
            case "tls":
                origin.speak_tls(*self.certs.pairs[0][1:])
            case _:
                origin.sick = order == "sick"

    def edit(self, old, new):
        with open(self.config) as file:
            text = file.read()
        if old not in text:
            raise Failed(f"nothing to edit: {old!r} is not in the configuration")
        write(self.config + ".new", text.replace(old, new))
        os.rename(self.config + ".new", self.config)

    def command(self, text):
        left, _, right = text.partition(" -> ")
        program, *arguments = shlex.split(self.in_use(left))
        if program == "seawall":
            program = self.seawall
        elif program not in peers.TOOLS:
            raise ValueError(f"{program} is no program for guides")
        elif program.startswith("varnish"):
            arguments = ["-n", f"{self.root}/var/lib/varnish", *arguments]
        done = self.run([program, *arguments])
        said = self.as_written(done.stdout + done.stderr)
        for want in re.split(r"; (?=out: )", right):
            if want.startswith("out: "):
                good = expect.matches(want.removeprefix("out: "), said, within=True)
            else:
                good = int(want) == done.returncode
            if not good:
                raise Failed(f"wanted {want!r}; exit status {done.returncode}, and it said:\n{said}")

    def send(self, ask):
        return client.send(ask, self.ports, self.certs.bundle)

    def wait_for(self, condition):
        deadline = time.monotonic() + PATIENCE
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.05)

    def answers(self, ask):
        asks = [client.numbered(ask, number) for number in range(1, ask.times + 1)]
        if not ask.parallel:
            return [self.send(each) for each in asks]
        with concurrent.futures.ThreadPoolExecutor(ask.times) as pool:
            return list(pool.map(self.send, asks))

    def ask(self, text, deadline=0.0):
        """Asks, and compares. Until the deadline it asks again if something does not hold."""
        left, arrow, right = text.partition(" -> ")
        if not arrow:
            raise ValueError(f"neither a request nor an order: {text!r}")
        ask, wants = client.parse(left), expect.split(right)
        while True:
            answers = self.answers(ask)
            good = all(expect.holds(want, answer, ask, self)[0] for answer in answers for want in wants)
            if good or time.monotonic() >= deadline:
                break
            time.sleep(0.05)
        for answer in answers:
            for want in wants:
                self.compare(want, answer, ask)

    def compare(self, want, answer, ask):
        deadline = time.monotonic() + (SETTLE if expect.may_come_true(want) else 0)
        good, got = expect.holds(want, answer, ask, self)
        while not good and time.monotonic() < deadline:
            time.sleep(0.05)
            good, got = expect.holds(want, answer, ask, self)
        if not good:
            lines = [f"{name}: {value}" for name, value in answer.fields] + ["", expect.plain(answer)[:900]]
            said = self.as_written("\n".join(lines))
            raise Failed(f"wanted {want!r}, got {got!r}\nthe answer: {answer.status}\n{said}")
        if expect.holds(expect.spoiled(want), answer, ask, self)[0]:
            raise Failed(f"{want!r} holds, and so does {expect.spoiled(want)!r}: it cannot fail")


def write(path, content):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(content)


def end(process):
    """Ends a process that this program started, and what it has started."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(1.5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)

"""How each server is started, how its configuration is checked, and where its access log is."""
import re
import shlex
import shutil
import subprocess

import frames

TOOLS = {"curl", "caddy", "varnishadm", "varnishstat"}


class Server:
    program = config = log = ""

    def frame(self, example, text):
        raise NotImplementedError

    def check(self, config, root):
        raise NotImplementedError

    def start(self, config, root, _port, _options):
        raise NotImplementedError

    def installed(self):
        return shutil.which(self.program) is not None

    def read_log(self, root):
        try:
            with open(root + self.log, encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return ""


class Seawall(Server):
    config, log = "/etc/seawall/seawall.toml", "/var/log/seawall/access.log"
    frame = staticmethod(frames.seawall)

    def __init__(self, program):
        self.program = program

    def check(self, config, root):
        return [self.program, "check", config]

    def start(self, config, root, _port, _options):
        return [self.program, "run", "--config", config]


class Nginx(Server):
    program, config, log = "nginx", "/etc/nginx/nginx.conf", "/var/log/nginx/access.log"
    frame = staticmethod(frames.nginx)

    def check(self, config, root):
        return [*self.start(config, root, 0, ""), "-t"]

    def start(self, config, root, _port, _options):
        return ["nginx", "-p", root, "-c", config, "-e", f"{root}/var/log/nginx/error.log"]


class Haproxy(Server):
    program, config, log = "haproxy", "/etc/haproxy/haproxy.cfg", "/stdout"
    frame = staticmethod(frames.haproxy)

    def check(self, config, root):
        return ["haproxy", "-c", "-f", config]

    def start(self, config, root, _port, _options):
        return ["haproxy", "-db", "-f", config]


class Varnish(Server):
    program, config = "varnishd", "/etc/varnish/default.vcl"
    frame = staticmethod(frames.vcl)

    def check(self, config, root):
        return ["varnishd", "-C", "-j", "none", "-n", f"{root}/var/lib/check", "-f", config]

    def start(self, config, root, port, options):
        command = ["varnishd", "-F", "-j", "none", "-n", f"{root}/var/lib/varnish", "-t", "30", "-f", config,
                   "-p", "thread_pools=1", "-p", "thread_pool_min=20"]
        if not re.search(r"(^| )-a ", options):
            command += ["-a", f"127.0.0.1:{port}"]
        if not re.search(r"(^| )-s ", options):
            command += ["-s", "malloc,32m"]
        return command + shlex.split(options)

    def read_log(self, root):
        command = ["varnishncsa", "-n", f"{root}/var/lib/varnish", "-d"]
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout


class Caddy(Server):
    program, config, log = "caddy", "/etc/caddy/Caddyfile", "/var/log/caddy/access.log"
    frame = staticmethod(frames.caddyfile)

    def check(self, config, root):
        return ["caddy", "validate", "--config", config, "--adapter", "caddyfile"]

    def start(self, config, root, _port, _options):
        return ["caddy", "run", "--config", config, "--adapter", "caddyfile"]


PEERS = {"nginx": Nginx(), "haproxy": Haproxy(), "vcl": Varnish(), "caddyfile": Caddy()}

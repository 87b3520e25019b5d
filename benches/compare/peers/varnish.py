"""Varnish with malloc storage. It has no TLS, and a thread for each connection."""

from .peer import MEMORY_MIB, Peer


class Varnish(Peer):
    name = "varnish"
    program, package = "varnishd", "varnish"
    has_tls = False
    setup = "one thread pool, malloc storage; its log goes to shared memory as always, and nothing reads it"

    @property
    def access_log(self):
        return None

    def command(self):
        vcl = self.dir / "default.vcl"
        vcl.write_text(f"""
vcl 4.1;
backend origin {{ .host = "127.0.0.1"; .port = "{self.origin.port}"; }}
sub vcl_recv {{ if (req.url ~ "^/pass/") {{ return (pass); }} }}
""")
        # No jail: it would change to a user who may not read the run's directory.
        return [self.program, "-F", "-j", "none", "-n", self.dir / "work", "-f", vcl, "-a", f"127.0.0.1:{self.port}",
                "-s", f"malloc,{MEMORY_MIB}m", "-p", "thread_pools=1", "-p", "thread_pool_min=100",
                "-p", "timeout_idle=3600"]

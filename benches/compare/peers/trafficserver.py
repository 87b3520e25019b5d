"""Apache Traffic Server: objects in its RAM cache, behind which there always is one on disk."""

import os
import shutil

from .peer import MEMORY_MIB, Peer

DIRECTORIES = ("etc", "cache", "log", "run")
USER = "trafficserver"  # of Debian's package: it refuses to serve as root


class TrafficServer(Peer):
    name = "trafficserver"
    program, package = "traffic_server", "trafficserver"
    setup = "one event thread, RAM cache in front of a cache file; access log (common) to a file, buffered"

    @property
    def access_log(self):
        return self.dir / "log" / "access.log"

    def command(self):
        for directory in DIRECTORIES:
            (self.dir / directory).mkdir()
            if os.geteuid() == 0:
                shutil.chown(self.dir / directory, USER)
        user = USER if os.geteuid() == 0 else f"#{os.geteuid()}"
        # Objects above this are read from the cache file.
        ram_cutoff = 64 * 1024 if self.on_disk else 4 * 1024 * 1024
        self._write("etc/records.config", f"""
CONFIG proxy.config.http.server_ports STRING {self.port}:ip-in=127.0.0.1 {self.tls_port}:ip-in=127.0.0.1:ssl
CONFIG proxy.config.admin.user_id STRING {user}
CONFIG proxy.config.exec_thread.autoconfig INT 0
CONFIG proxy.config.exec_thread.limit INT 1
CONFIG proxy.config.accept_threads INT 0
CONFIG proxy.config.task_threads INT 1
CONFIG proxy.config.url_remap.remap_required INT 1
CONFIG proxy.config.reverse_proxy.enabled INT 1
CONFIG proxy.config.cache.ram_cache.size INT {MEMORY_MIB * 1024 * 1024}
CONFIG proxy.config.cache.ram_cache_cutoff INT {ram_cutoff}
CONFIG proxy.config.cache.min_average_object_size INT 8000
CONFIG proxy.config.http.keep_alive_no_activity_timeout_in INT 3600
CONFIG proxy.config.http.transaction_no_activity_timeout_in INT 3600
CONFIG proxy.config.ssl.server.cert.path STRING {self.lab.dir}
CONFIG proxy.config.ssl.server.private_key.path STRING {self.lab.dir}
CONFIG proxy.config.ssl.TLSv1_2 INT 0
CONFIG proxy.config.ssl.session_cache INT 2
CONFIG proxy.config.net.listen_backlog INT 4096
CONFIG proxy.config.net.connections_throttle INT 30000
CONFIG proxy.config.crash_log_helper STRING NULL
CONFIG proxy.config.log.logging_enabled INT 3
CONFIG proxy.config.log.rolling_enabled INT 0
""")
        self._write("etc/storage.config", f"{self.dir}/cache 4G\n")
        self._write("etc/remap.config", "".join(
            f"map {path} http://127.0.0.1:{self.origin.port}{path}{plugin}\n" for path, plugin in
            (("/pass/", " @plugin=conf_remap.so @pparam=proxy.config.http.cache.http=0"), ("/", ""))))
        self._write("etc/ssl_multicert.config", "dest_ip=* ssl_cert_name=both.pem\n")
        self._write("etc/ip_allow.yaml",
                    "ip_allow:\n  - {apply: in, ip_addrs: 127.0.0.1, action: allow, methods: ALL}\n")
        self._write("etc/logging.yaml", """logging:
  formats:
    - {name: common, format: '%<chi> - %<caun> [%<cqtn>] "%<cqtx>" %<pssc> %<pscl>'}
  logs:
    - {filename: access, format: common, mode: ascii}
""")
        self._write("runroot.yaml", f"""
prefix: {self.dir}
exec_prefix: /usr
bindir: /usr/bin
sbindir: /usr/bin
libexecdir: /usr/lib/trafficserver/modules
sysconfdir: {self.dir}/etc
datadir: {self.dir}
localstatedir: {self.dir}/run
runtimedir: {self.dir}/run
logdir: {self.dir}/log
cachedir: {self.dir}/cache
""")
        return [self.program, f"--run-root={self.dir}"]

    def _write(self, name, text):
        (self.dir / name).write_text(text)

"""HAProxy with its cache, which is in memory alone."""

from .peer import MEMORY_MIB, Peer


class HAProxy(Peer):
    name = "haproxy"
    program = package = "haproxy"
    setup = ("nbthread 1, the cache in memory; access log (httplog) into a ring in memory, the cheapest that it has: "
             "it is never written out")

    @property
    def access_log(self):
        return None

    def command(self):
        config = self.dir / "haproxy.cfg"
        config.write_text(f"""
global
  nbthread 1
  maxconn 16000
  no strict-limits
  log ring@access format raw local0
  tune.ssl.cachesize 100000
  ssl-default-bind-options ssl-min-ver TLSv1.3

ring access
  format raw
  maxlen 1200
  size 4194304

defaults
  mode http
  log global
  option httplog
  http-reuse always
  timeout connect 5s
  timeout server 1m
  timeout client 1h
  timeout http-keep-alive 1h

cache memory
  total-max-size {MEMORY_MIB}
  max-object-size {MEMORY_MIB // 2 * 1024 * 1024}
  max-age 86400
  process-vary on

frontend clients
  bind 127.0.0.1:{self.port}
  bind 127.0.0.1:{self.tls_port} ssl crt {self.lab.dir}/both.pem alpn h2,http/1.1
  use_backend passed if {{ path_beg /pass/ /post }}
  use_backend echo if {{ path /echo }}
  default_backend cached

backend cached
  http-request cache-use memory
  http-response cache-store memory
  server origin 127.0.0.1:{self.origin.port}

backend echo
  server echo 127.0.0.1:{self.origin.echo.port}

backend passed
  server origin 127.0.0.1:{self.origin.port}
""")
        return [self.program, "-db", "-f", config]

"""nginx three times: as a server of static files, its best for hits, by sendfile and by copying; and as a cache in
front of the same origin as the others."""

import nginx_conf

from .peer import MEMORY_MIB, Peer


class _Nginx(Peer):
    program, package = nginx_conf.PROGRAM, "nginx-light"

    def server(self, locations):
        kept = "keepalive 64; keepalive_requests 1000000000; keepalive_timeout 1h;"
        return f"""
access_log {self.access_log} combined buffer=64k flush=1s;
upstream origin {{ server 127.0.0.1:{self.origin.port}; {kept} }}
upstream h2_origin {{ server 127.0.0.1:{self.origin.h2_port}; {kept} }}
proxy_http_version 1.1; proxy_set_header Connection "";
server {{
listen 127.0.0.1:{self.port} backlog=4096;
listen 127.0.0.1:{self.tls_port} ssl http2 backlog=4096;
ssl_certificate {self.lab.certificate}; ssl_certificate_key {self.lab.key};
ssl_protocols TLSv1.3; ssl_session_cache shared:tls:64m;
location /grpc/ {{ grpc_pass grpc://h2_origin; }}
location /pass/ {{ proxy_pass http://origin; }}
location = /echo {{ proxy_pass http://127.0.0.1:{self.origin.echo.port}; proxy_http_version 1.1;
  proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade"; }}
location = /post {{ proxy_pass http://origin; proxy_request_buffering off; client_body_buffer_size 64k; }}
{locations}
}}"""


class Nginx(_Nginx):
    name = "nginx"
    setup = ("one worker; static files by sendfile with tcp_nopush and open_file_cache, which is faster than its "
             "cache; kept upstream connections where it proxies; access log with buffer=64k")
    send = "sendfile on; tcp_nopush on;"

    def command(self):
        return nginx_conf.command(self, self.server(nginx_conf.files(self.origin.root)), self.send)


class NginxCopy(Nginx):
    name = "nginx-copy"
    setup = "the same without sendfile: head and body of a small file go out in one write"
    send = "sendfile off;"


class NginxCache(_Nginx):
    name = "nginx-cache"
    setup = ("one worker; proxy_cache in /dev/shm, or on disk where the case is about disks; sendfile, tcp_nopush and "
             "open_file_cache; access log with buffer=64k")

    def command(self):
        directory, size = (self.dir, "8g") if self.on_disk else (self.lab.memory_dir / self.case.name, f"{MEMORY_MIB}m")
        directory.mkdir(parents=True, exist_ok=True)
        return nginx_conf.command(self, f"""
proxy_cache_path {directory}/cache levels=1:2 keys_zone=cache:64m max_size={size} inactive=1d use_temp_path=off
  manager_files=2000;
""" + self.server("location / { proxy_cache cache; proxy_pass http://origin; }"))

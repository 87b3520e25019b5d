"""What the configurations of the origin and of the nginx that is measured have in common: nginx at its best."""

import os

PROGRAM = "nginx"


def command(server, http, send="sendfile on; tcp_nopush on;"):
    """Writes the configuration of `server` and returns the command line that runs it."""
    directory = server.dir
    temp_paths = "".join(f"{kind}_temp_path {directory}/{kind};\n" for kind in
                         ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    # Workers of a master that is root are "nobody", who may not read the run's directory.
    user = "user root;" if os.geteuid() == 0 else ""
    path = directory / "nginx.conf"
    path.write_text(f"""
{user} daemon off; worker_processes 1; worker_rlimit_nofile 65536;
pid {directory}/pid; error_log {directory}/error.log warn;
events {{ worker_connections 32768; }}
http {{
{temp_paths}
{send}
open_file_cache max=20000 inactive=1h; open_file_cache_valid 1h;
keepalive_requests 1000000000; keepalive_timeout 1h;
{http}
}}
""")
    return [PROGRAM, "-e", directory / "error.log", "-c", path]


def files(root):
    """The locations that serve the files of the run, with what a cache needs to store them."""
    return f"""
root {root}; default_type application/octet-stream;
location / {{ add_header Cache-Control "public, max-age=86400"; }}
location /vary/ {{ gzip_static on; gzip_vary on; gzip_proxied any; add_header Cache-Control "public, max-age=86400"; }}
"""

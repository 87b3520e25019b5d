"""What stands around a snippet, so that it is a whole configuration.

Each function takes an example and its snippet, and adds only what the snippet does not say itself. Frames (`in:`):

    nginx        server (also if none is said), location, http
    haproxy      frontend (also if none is said), backend, whole
    vcl          whole
    caddyfile    site (also if none is said), whole
"""
import os
import re
import textwrap
import tomllib


def has(text, pattern):
    return re.search(pattern, text, re.MULTILINE) is not None


def indent(text):
    return textwrap.indent(text, "    ")


def unknown(example):
    raise ValueError(f"no frame is called {example.frame!r}")


def nginx(example, text):
    http = ""
    if not has(text, r"^\s*proxy_cache_path "):
        http += "proxy_cache_path /var/cache/nginx levels=1:2 keys_zone=edge:10m;\n"
    if not has(text, r"^\s*upstream app "):
        http += "upstream app { server 127.0.0.1:3000; }\n"
    if not has(text, r"^\s*access_log "):
        http += "access_log off;\n"
    for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"):
        http += f"{name}_temp_path /var/lib/nginx/{name};\n"
    match example.frame:
        case "http":
            http += text
            server = "" if has(text, r"^server \{") else "location / { proxy_pass http://app; }\n"
        case "server" | "":
            server = text + ("" if has(text, r"^location / \{") else "location / { proxy_pass http://app; }\n")
        case "location":
            last = "" if has(text, r"^(proxy|grpc)_pass |^return ") else "proxy_pass http://app;\n"
            server = "location / {\n" + indent(text + last) + "}\n"
        case _:
            unknown(example)
    if server:
        listen = "" if has(server, r"^listen ") else "listen 127.0.0.1:8080;\n"
        http += "server {\n" + indent(listen + server) + "}\n"
    user = "user root;\n" if os.geteuid() == 0 else ""
    return (user + "daemon off;\nworker_processes 1;\npid /var/run/nginx.pid;\nerror_log /var/log/nginx/error.log;\n"
            "events { worker_connections 256; }\nhttp {\n" + indent(http) + "}\n")


def haproxy(example, text):
    top = ("global\n    log stdout format raw local0\n    maxconn 500\ndefaults\n    mode http\n    log global\n"
           "    timeout connect 3s\n    timeout client 30s\n    timeout server 30s\n")
    if has(text, r"cache-use edge") and not has(text, r"^cache edge$"):
        top += "cache edge\n    total-max-size 16\n    max-age 3600\n    process-vary on\n"
    bind, default, server = "    bind 127.0.0.1:8080\n", "    default_backend app\n", "    server app1 127.0.0.1:3000\n"
    front, back = "frontend web\n" + bind + default, "backend app\n" + server
    match example.frame:
        case "frontend" | "":
            front = ("frontend web\n" + ("" if has(text, r"^bind ") else bind) + indent(text)
                     + ("" if has(text, r"^default_backend ") else default))
        case "backend":
            back = "backend app\n" + indent(text) + ("" if has(text, r"^server ") else server)
        case "whole":
            front = "" if has(text, r"^frontend web$") else front
            back = "" if has(text, r"^backend app$") else back
            return top + text + front + back
        case _:
            unknown(example)
    return top + front + back


def vcl(example, text):
    if example.frame not in ("", "whole"):
        unknown(example)
    head = "" if has(text, r"^vcl 4") else "vcl 4.1;\n"
    backend = "" if has(text, r"^backend \w+") else 'backend default { .host = "127.0.0.1"; .port = "3000"; }\n'
    return head + text + backend


def caddyfile(example, text):
    options = ""
    if example.frame == "whole":
        if opening := re.match(r"\{\n(.*?)^\}\n", text, re.MULTILINE | re.DOTALL):
            options, text = opening[1], text[opening.end():]
    elif example.frame in ("site", ""):
        last = "" if has(text, r"^reverse_proxy [^/@\n]|^handle \{") else "reverse_proxy 127.0.0.1:3000\n"
        text = ":8080 {\n" + indent(text + last) + "}\n"
    else:
        unknown(example)
    own = "    http_port 8080\n    https_port 8443\n    skip_install_trust\n    admin 127.0.0.1:2019\n"
    return "{\n" + own + options + "}\n" + text


def seawall(_example, text):
    told = tomllib.loads(text)
    head = tail = ""
    if "node" not in told:
        head += '[node]\nname = "edge-1"\n\n'
    if "listen" not in told:
        head += '[[listen]]\naddress = "127.0.0.1:8080"\n\n'
    if "log" not in told:
        head += '[log]\naccess = "off"\n\n'
    if "app" not in told.get("pool", {}):
        head += '[pool.app]\norigins = ["127.0.0.1:3000"]\n\n'
    sites = told.get("site", {})
    if not sites or any("hosts" not in site for site in sites.values()):
        name = next((name for name, site in sites.items() if "hosts" not in site), "shop")
        head += f'[site.{name}]\nhosts = ["*"]\n\n'
        sites = {**sites, name: sites.get(name, {})}
    for name, site in sites.items():
        if not any(takes_all(route) for route in site.get("route", [])):
            tail += f'\n[[site.{name}.route]]\npath = "/*"\npool = "app"\n'
    return head + text + tail


def takes_all(route):
    conditional = "when" in route or "methods" in route or "map" in route.get("redirect", {})
    return route.get("path") == "/*" and not conditional

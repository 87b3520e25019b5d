#!/usr/bin/env python3
"""The demo in a browser: demo.py BINARY [SCREENSHOT]. Five clicks must show hits. Needs chromium and chromedriver; says so if they
are not there."""
import base64
import json
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # by which WebDriver names one
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--window-size=1000,700"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def call(url, body=None, method=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)["value"] if "session" in url else answer.read()


def until(what, ask, patience=30):
    end = time.monotonic() + patience
    while time.monotonic() < end:
        try:
            if found := ask():
                return found
        except OSError:
            pass
        time.sleep(0.05)
    raise SystemExit(f"FAILED {what} in {patience} s")


def rows(session):
    script = "return [...document.querySelectorAll('#log tr')].map(row => [row.className, row.innerText])"
    return call(f"{session}/execute/sync", {"script": script, "args": []})


def visit(driver, page, screenshot, profile):
    options = {"binary": shutil.which("chromium"), "args": [*FLAGS, f"--user-data-dir={profile}"]}
    capabilities = {"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}}
    session = f"{driver}/session/{call(f'{driver}/session', capabilities)['sessionId']}"
    try:
        call(f"{session}/url", {"url": page})
        shown = len(until("the page shows its first answers", lambda: len(rows(session)) >= 2 and rows(session)))
        button = call(f"{session}/element", {"using": "css selector", "value": "button"})[ELEMENT]
        for click in range(1, 6):
            call(f"{session}/element/{button}/click", {})
            until(f"click {click} is answered", lambda: len(rows(session)) >= min(shown + click, 12))
        seen = rows(session)
        image = call(f"{session}/screenshot")
        pathlib.Path(screenshot).write_bytes(base64.b64decode(image))
        return seen
    finally:
        call(session, method="DELETE")


def main():
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        print("skip  chromium is not installed: the demo is not looked at in a browser")
        return
    with tempfile.TemporaryDirectory() as work:
        screenshot = sys.argv[2] if len(sys.argv) > 2 else f"{work}/demo.png"
        ports = [free_port() for _ in range(3)]
        node, admin = (f"127.0.0.1:{port}" for port in ports[:2])
        demo = subprocess.Popen([sys.argv[1], "demo", "--listen", node, "--admin", admin], stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL)
        driver = subprocess.Popen(["chromedriver", f"--port={ports[2]}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            until("the demo runs", lambda: call(f"http://{node}/"))
            until("the driver runs", lambda: call(f"http://127.0.0.1:{ports[2]}/status"))
            seen = visit(f"http://127.0.0.1:{ports[2]}", f"http://{node}/", screenshot, f"{work}/profile")
        finally:
            for process in (driver, demo):
                process.terminate()
                process.wait(20)
    hits = [text for kind, text in seen if kind == "hit"]
    if len(hits) < 4:
        raise SystemExit(f"FAILED five clicks show {len(hits)} hits: {seen}")
    print(f"ok    five clicks show {len(hits)} hits in a browser")


main()

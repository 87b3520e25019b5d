"""A guide: Markdown in which the examples can be tried.

An example is a heading, a block in the peer's language, a block of TOML, and what may be asked of both:

    ### Redirect a path
    ```nginx
    location = /old { return 301 /new; }
    ```
    ```toml
    [[site.shop.route]]
    path = "/old"
    redirect = { to = "/new", status = 301 }
    ```
    <!-- try
    in: server
    GET /old -> 301; location: /new
    -->

Seawall's side needs a block of TOML; an example without a block of the peer's is tried on Seawall alone. A block of
`text` whose first line is `# /path` is a file for both sides. A block of `sh` that begins with `varnishd` has its
options. Other blocks (`console`) are for readers.

Each side has a fresh server, fresh origins at 127.0.0.1:3000, 3001 and 3002, and ports of its own. Guides write 8080
(plain) and 8443 (TLS) for what clients connect to, and 9180, 8404, 2019 for administration. All ports, and paths below
/etc, /srv and /var, are replaced by such of the run. Lines of a try comment, done in their order:

    in: FRAME                    what stands around the peer's snippet, see frames.py
    file: PATH = CONTENT         a file, with \\n and \\r for the ends of its lines
    REQUEST -> EXPECTATIONS      ask, and compare the answer
    until REQUEST -> ...         ask again until it holds, within PATIENCE
    meanwhile REQUEST            ask, and do not wait for the answer
    $ COMMAND -> 0; out: TEXT    a program of the peer's or Seawall's: exit status, and what it prints
    edit OLD => NEW              a change in the configuration file in use
    wait SECONDS
    stop|start|sick|well|tls PORT    an origin: gone, back, answers 503, answers again, speaks TLS from now on
    only peer: ..., only seawall: ...    for one side
    ; ...                        goes on with the line before
    // ...                       a remark

A request is METHOD TARGET, and then, with `; ` between:

    name: value                  a field; `Host` is shop.example.com if not given
    body=TEXT  size=N            a body
    twice  xN  parallel=N        more than once; each answer must be as expected; {n} in fields and `from` is which
    from=ADDRESS                 of loopback
    proxy=ADDRESS                the PROXY protocol, in the name of that client
    h2  tls=1.2  ws=TEXT         HTTP/2; no higher version of TLS; a WebSocket with one message

TARGET is a path, or a URL where it matters (`https://`, another port). The method GRPC is a call by gRPC.

An expectation, with `; ` between, is a status, or `closed` (no answer), `tls-error`, `none` (not in time), or one of

    name: value                  a field of the answer: exactly, `~REGEX`, or `-` for no such field. Of a Location on
                                 the site itself the path alone counts
    body: TEXT                   has TEXT in it; `~REGEX`; `!TEXT`: has not
    http: 1.1 or 2,  cert: NAME  the version; the name in the certificate
    time: <SECONDS
    origin: N,  origin PORT: N   requests so far to all origins, or to one; A..B. Health checks do not count
    origins: N                   how many origins were asked anything
    confirmed: N                 how many 304 the origins gave
    log: TEXT                    the access log has it; `~REGEX`
"""
import re
from dataclasses import dataclass, field

PEERS = ("nginx", "haproxy", "vcl", "caddyfile")


@dataclass
class Step:
    line: int
    text: str


@dataclass
class Example:
    guide: str
    line: int
    title: str
    peer: str | None = None
    theirs: str = ""
    ours: str = ""
    options: str = ""                           # of varnishd
    frame: str = ""
    files: dict = field(default_factory=dict)
    steps: list = field(default_factory=list)


class Mistake(Exception):
    """Something in a guide that this program does not understand."""


def read(path):
    """All examples of the guide at `path`."""
    with open(path, encoding="utf-8") as file:
        lines = file.read().split("\n")
    found, title, began, blocks, at = [], "", 0, [], 0
    while at < len(lines):
        text = lines[at]
        if text.startswith("#"):
            complain_if_untried(path, began, title, blocks)
            title, began, blocks = text.lstrip("# "), at + 1, []
        elif opening := re.fullmatch(r"```(\w+)", text):
            end = lines.index("```", at + 1)
            blocks.append((opening[1], "\n".join(lines[at + 1:end]) + "\n"))
            at = end
        elif text == "<!-- try":
            end = lines.index("-->", at + 1)
            example = of_blocks(path, began, title, blocks)
            add_lines(example, [(n + 1, lines[n].strip()) for n in range(at + 1, end)])
            found.append(example)
            blocks, at = [], end
        at += 1
    complain_if_untried(path, began, title, blocks)
    return found


def complain_if_untried(path, line, title, blocks):
    if any(kind == "toml" for kind, _ in blocks):
        raise Mistake(f"{path}:{line}: {title}: an example without a try comment")


def of_blocks(path, line, title, blocks):
    example = Example(path, line, title)
    peers = [block for block in blocks if block[0] in PEERS]
    ours = [content for kind, content in blocks if kind == "toml"]
    if len(peers) > 1 or len(ours) != 1:
        raise Mistake(f"{path}:{line}: {title}: wants one block of TOML, and at most one of the peer's")
    example.ours = ours[0]
    if peers:
        example.peer, example.theirs = peers[0]
    for kind, content in blocks:
        if kind == "text" and (named := re.match(r"# (/\S+)\n", content)):
            example.files[named[1]] = content[named.end():]
        elif kind == "sh" and content.startswith("varnishd "):
            example.options = content.replace("\\\n", " ").strip().removeprefix("varnishd ")
    return example


def add_lines(example, lines):
    for number, text in lines:
        if not text or text.startswith("//"):
            continue
        if text.startswith("; "):
            example.steps[-1].text += text
        elif text.startswith("in: "):
            example.frame = text[4:]
        elif text.startswith("file: "):
            path, _, content = text[6:].partition(" = ")
            example.files[path] = content.replace("\\r", "\r").replace("\\n", "\n")
        else:
            example.steps.append(Step(number, text))

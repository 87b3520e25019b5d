"""Expectations: whether one holds, and how to spoil it, so that it is known to be able to fail."""
import gzip
import re

STATUS = re.compile(r"\d\d\d|closed|none|tls-error")
COUNT = re.compile(r"(origin|origins|confirmed)(?: (\d+))?: (\d+)(?:\.\.(\d+))?")
SEPARATOR = re.compile(rf"; (?=[\w-]+(?: \d+)?: |(?:{STATUS.pattern})(?:;|$))")


def split(text):
    """The expectations right of an arrow."""
    return SEPARATOR.split(text.strip())


def may_come_true(want):
    """Whether it is about something that may still be under way when the answer is there."""
    return bool(COUNT.fullmatch(want)) or want.startswith("log: ")


def holds(want, answer, ask, trial):
    """Whether it holds, and what is so instead."""
    if STATUS.fullmatch(want):
        return want == answer.status, answer.status
    if count := COUNT.fullmatch(want):
        got = counted(count[1], int(count[2] or 0), trial.origins)
        return int(count[3]) <= got <= int(count[4] or count[3]), got
    name, colon, value = want.partition(": ")
    if not colon:
        raise ValueError(f"not an expectation: {want!r}")
    match name:
        case "body":
            got = trial.as_written(plain(answer))
            return matches(value, got, within=True), got
        case "log":
            got = trial.read_log()
            return matches(value, got, within=True), got[-600:]
        case "time":
            return answer.seconds < float(value.removeprefix("<")), round(answer.seconds, 2)
        case "http":
            return value == answer.version, answer.version
        case "cert":
            return value == answer.cert, answer.cert
        case "location":
            got = public_path(trial.as_written(answer.get(name)), ask)
            return matches(value, got), got
        case _:
            got = trial.as_written(answer.get(name))
            return matches(value, got), got


def counted(what, port, origins):
    if what == "confirmed":
        return sum(origin.confirmed for origin in origins.values())
    if what == "origins":
        return sum(origin.count > 0 for origin in origins.values())
    return sum(origin.count for name, origin in origins.items() if port in (0, name))


def matches(want, got, within=False):
    if want == "-":
        return got is None
    if got is None:
        return False
    if want.startswith("~"):
        return re.search(want[1:], got, re.MULTILINE) is not None
    if want.startswith("!"):
        return want[1:].strip() not in got
    return want in got if within else want == got


def spoiled(want):
    """The same expectation, so changed that it must not hold where it held."""
    name, _, value = want.partition(": ")
    if STATUS.fullmatch(want):
        return "599"
    if COUNT.fullmatch(want):
        return f"{name}: 9999"
    if name == "time":
        return "time: <0"
    if value == "-":
        return f"{name}: ~"                     # any value
    if value.startswith("!"):
        return f"{name}: !"                     # nothing, which is in everything
    return f"{name}: {value.replace('~', '', 1)} and something else"


def plain(answer):
    body = gzip.decompress(answer.body) if answer.get("content-encoding") == "gzip" else answer.body
    return body.decode("utf-8", "replace")


def public_path(location, ask):
    """A Location on the site itself, as a path: some servers write the whole URL."""
    own = rf"{ask.scheme}://{re.escape(ask.host)}(:(8080|8443))?(?=/)"
    return location and re.sub(rf"^{own}", "", location)

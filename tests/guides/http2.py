"""As much of HTTP/2 as an origin with short answers needs: frames (RFC 9113), and fields in HPACK (RFC 7541)."""
import struct

DATA, HEADERS, SETTINGS, PING, CONTINUATION = 0, 1, 4, 6, 9
END_STREAM = ACK = 1
END_HEADERS, PADDED, PRIORITY = 4, 8, 32
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

STATIC = [(":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
          (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
          (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
          ("accept-encoding", "gzip, deflate")] + [(name, "") for name in """
accept-language accept-ranges accept access-control-allow-origin age allow authorization cache-control
content-disposition content-encoding content-language content-length content-location content-range content-type cookie
date etag expect expires from host if-match if-modified-since if-none-match if-range if-unmodified-since last-modified
link location max-forwards proxy-authenticate proxy-authorization range referer refresh retry-after server set-cookie
strict-transport-security transfer-encoding user-agent vary via www-authenticate""".split()]

# The lengths of the Huffman codes of 0 to 255 and of the end, in base 36. The code is canonical, so they say all of it.
LENGTHS = ("dnsssssssoussussssssssusssssssss6aacd68baa8b8666555666666678f6cad677777777777777777777"
           "77878djde6f56565666577666567655677777fbedskmkkmmmnmnnnnnonoomnonnnnlmnmnnomlkmmnnlnmmo"
           "lmnnllmlnmnnkmmmnmmnqqkjmnmpqqqrrqopjlqrrqrollqqsrrrkoklmllnmmppooqnqrqqrrrrrsrrrrrqu")


def huffman_codes():
    codes, code, before = {}, 0, 0
    for length, symbol in sorted((int(digit, 36), symbol) for symbol, digit in enumerate(LENGTHS)):
        code <<= length - before
        codes[length, code] = symbol
        code, before = code + 1, length
    return codes


CODES = huffman_codes()


def huffman(data):
    out, code, length = bytearray(), 0, 0
    for byte in data:
        for at in range(7, -1, -1):
            code, length = code << 1 | byte >> at & 1, length + 1
            if (symbol := CODES.get((length, code))) is not None:
                out.append(symbol)
                code = length = 0
    return bytes(out)                           # what is left over is padding


class Hpack:
    """The fields of one connection."""

    def __init__(self):
        self.known, self.limit = [], 4096

    def read(self, data):
        self.data, self.at, fields = data, 0, []
        while self.at < len(data):
            first = data[self.at]
            if first & 0x80:
                fields.append(self.entry(self.integer(7)))
            elif first & 0xe0 == 0x20:
                self.limit = self.integer(5)
                self.shrink()
            else:
                index = self.integer(6 if first & 0x40 else 4)
                name = self.entry(index)[0] if index else self.string()
                fields.append((name, self.string()))
                if first & 0x40:
                    self.known.insert(0, fields[-1])
                    self.shrink()
        return fields

    def entry(self, index):
        return STATIC[index - 1] if index <= len(STATIC) else self.known[index - len(STATIC) - 1]

    def shrink(self):
        while sum(len(name) + len(value) + 32 for name, value in self.known) > self.limit:
            self.known.pop()

    def integer(self, bits):
        value = self.data[self.at] & (1 << bits) - 1
        self.at += 1
        if value == (1 << bits) - 1:
            shift, more = 0, True
            while more:
                byte = self.data[self.at]
                value, shift, more = value + ((byte & 0x7f) << shift), shift + 7, byte & 0x80
                self.at += 1
        return value

    def string(self):
        packed = self.data[self.at] & 0x80
        length = self.integer(7)
        data = self.data[self.at:self.at + length]
        self.at += length
        return (huffman(data) if packed else data).decode("latin-1")


def block(fields):
    """Fields, written as literals that nobody need remember."""
    return b"".join(b"\0" + literal(name) + literal(value) for name, value in fields)


def literal(text):
    data = text.encode("latin-1")
    rest = len(data) - 127
    length = bytes([len(data)]) if rest < 0 else bytes([127, rest % 128 + 128, rest // 128])
    return length + data


def frame(kind, flags, stream, data=b""):
    return struct.pack(">I", len(data))[1:] + struct.pack(">BBI", kind, flags, stream) + data


def serve(file, send, answer):
    """Serves the connection whose preface comes next. `answer` takes a request's fields and body, and gives the
    answer's fields, body and trailers."""
    file.read(len(PREFACE))
    send(frame(SETTINGS, 0, 0))
    hpack, heads, bodies, fields, last = Hpack(), {}, {}, b"", False
    while len(head := file.read(9)) == 9:
        length, kind, flags, stream = int.from_bytes(head[:3]), head[3], head[4], int.from_bytes(head[5:])
        data = file.read(length)
        if kind in (DATA, HEADERS) and flags & PADDED:
            data = data[1:len(data) - data[0]]
        if kind == SETTINGS and not flags & ACK:
            send(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            send(frame(PING, ACK, 0, data))
        if kind in (HEADERS, DATA):
            last = bool(flags & END_STREAM)
        if kind == DATA:
            bodies[stream] += data
        elif kind == HEADERS:
            fields = data[5:] if flags & PRIORITY else data
        elif kind == CONTINUATION:
            fields += data
        if kind in (HEADERS, CONTINUATION) and flags & END_HEADERS:
            read = hpack.read(fields)
            heads.setdefault(stream, read)                  # a second block would have trailers
            bodies.setdefault(stream, b"")
        if last and stream in heads and (kind == DATA or flags & END_HEADERS and kind in (HEADERS, CONTINUATION)):
            out, body, trailers = answer(heads.pop(stream), bodies.pop(stream))
            send(frame(HEADERS, END_HEADERS, stream, block(out)))
            send(frame(DATA, 0 if trailers else END_STREAM, stream, body))
            if trailers:
                send(frame(HEADERS, END_HEADERS | END_STREAM, stream, block(trailers)))

"""The floor: floor.c, which reads once, writes once and knows nothing."""

import shutil
import subprocess

from lab import HERE

from .peer import Peer

HEAD = """HTTP/1.1 {status}\r
Date: Thu, 01 Jan 2026 00:00:00 GMT\r
Content-Type: application/octet-stream\r
{length}ETag: "0123456789-abcdef"\r
Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r
Cache-Control: public, max-age=86400\r
Accept-Ranges: bytes\r
Age: 10\r
{fields}\r
"""
STATUS = {200: "200 OK", 206: "206 Partial Content", 304: "304 Not Modified"}


class Floor(Peer):
    name = "floor"
    has_tls = False
    setup = "no server: one thread that answers each read with the same bytes in one write, and parses and logs nothing"

    @property
    def access_log(self):
        return None

    @classmethod
    def installed(cls, lab):
        return shutil.which("cc") is not None

    @classmethod
    def version(cls, lab):
        return "benches/compare/floor.c, cc -O2"

    def command(self):
        program, response = self.dir / "floor", self.dir / "response"
        subprocess.run(["cc", "-O2", "-o", program, HERE / "floor.c"], check=True)
        body = self.case.expected_body(self.origin)
        length = "" if self.case.status == 304 else f"Content-Length: {len(body)}\r\n"
        fields = "Connection: close\r\n" if self.case.closes else ""
        if self.case.part:
            first, last = self.case.part
            fields += f"Content-Range: bytes {first}-{last}/{len(self.origin.body(self.case.path))}\r\n"
        head = HEAD.format(status=STATUS[self.case.status], length=length, fields=fields)
        response.write_bytes(head.encode() + body)
        return [program, self.port, response, "close" if self.case.closes else "keep"]

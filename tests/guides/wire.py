"""Messages of WebSocket and gRPC, as both the client and the origin write them."""
import base64
import hashlib
import struct

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="


def accept(key):
    """What a server answers to a Sec-WebSocket-Key."""
    return base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode()


def ws_frame(data, masked):
    """One short message of text."""
    assert len(data) < 126
    key = b"\1\2\3\4" if masked else b""
    head = bytes([0x81, (0x80 if masked else 0) | len(data)]) + key
    return head + (mask(data, key) if masked else data)


def ws_read(file):
    head = file.read(2)
    key = file.read(4) if head[1] & 0x80 else b"\0\0\0\0"
    return mask(file.read(head[1] & 0x7f), key)


def mask(data, key):
    return bytes(byte ^ key[at % 4] for at, byte in enumerate(data))


def grpc_message(data):
    return b"\0" + struct.pack(">I", len(data)) + data

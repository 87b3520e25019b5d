//! An HTTP/2 client that says anything: frames as they are, over TLS.

use std::io::{Read, Write};
use std::net::TcpStream;

use rustls::pki_types::ServerName;

use super::h2::{HOST, tls};
use super::{Node, PATIENCE};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// A frame's bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The field section of a GET, with more fields.
pub fn section(path: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = vec![0x82, 0x87, 0x04];
    let string = |text: &str, block: &mut Vec<u8>| {
        assert!(text.len() < 127);
        block.push(text.len() as u8);
        block.extend(text.as_bytes());
    };
    string(path, &mut block);
    block.push(0x01);
    string(HOST, &mut block);
    for (name, value) in fields {
        block.push(0x00);
        string(name, &mut block);
        string(value, &mut block);
    }
    block
}

/// A whole GET.
pub fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &section(path, &[]))
}

/// A connection.
pub struct Raw(rustls::StreamOwned<rustls::ClientConnection, TcpStream>);

impl Raw {
    /// Connects; says nothing.
    pub fn silent(node: &Node) -> Self {
        let config = tls(&node.directory.path().join("test.pem"));
        let session = rustls::ClientConnection::new(config, ServerName::try_from(HOST).unwrap()).unwrap();
        let socket = TcpStream::connect(node.address()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_nodelay(true).unwrap();
        Raw(rustls::StreamOwned::new(session, socket))
    }

    /// Connects and says hello.
    pub fn connect(node: &Node) -> Self {
        let mut raw = Self::silent(node);
        raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        raw.send(&frame(SETTINGS, 0, 0, &[]));
        raw
    }

    /// Connects by TLS for HTTP/1.1; says nothing.
    pub fn by_h1(node: &Node) -> Self {
        let mut config = (*tls(&node.directory.path().join("test.pem"))).clone();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let name = ServerName::try_from(HOST).unwrap();
        let session = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
        let socket = TcpStream::connect(node.address()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Raw(rustls::StreamOwned::new(session, socket))
    }

    /// Sends; whether the node still listens is for the reading to find.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes);
        let _ = self.0.flush();
    }

    /// Whatever has come, at least one byte; empty at the end.
    pub fn read_some(&mut self) -> Vec<u8> {
        let mut space = vec![0; 64 << 10];
        let read = self.0.read(&mut space).unwrap_or(0);
        space.truncate(read);
        space
    }

    /// The next frame; `None`: the connection has ended.
    pub fn frame(&mut self) -> Option<Frame> {
        let mut header = [0; 9];
        match self.0.read_exact(&mut header) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("nothing came"),
            Err(_) => return None,
        }
        let [a, b, c, kind, flags, stream @ ..] = header;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.0.read_exact(&mut payload).ok()?;
        Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload })
    }

    /// The first frame of a kind.
    pub fn first(&mut self, kind: u8) -> Option<Frame> {
        std::iter::from_fn(|| self.frame()).find(|frame| frame.kind == kind)
    }

    /// The error with which the connection ends, of a GOAWAY.
    pub fn end(&mut self) -> Option<u32> {
        let last = std::iter::from_fn(|| self.frame()).filter(|frame| frame.kind == GOAWAY).last();
        last.map(|goaway| code(&goaway.payload[4..]))
    }

    /// The error with which a stream is reset; `None` if it ends otherwise, or the connection does.
    pub fn reset(&mut self, stream: u32) -> Option<u32> {
        let last = |frame: &Frame| {
            frame.stream == stream && (frame.kind == RST_STREAM || frame.kind < 2 && frame.flags & END_STREAM != 0)
        };
        let frame = std::iter::from_fn(|| self.frame()).find(last)?;
        (frame.kind == RST_STREAM).then(|| code(&frame.payload))
    }

    /// Whether the connection still answers.
    pub fn is_alive(&mut self) -> bool {
        self.send(&frame(PING, 0, 0, b"isalive?"));
        std::iter::from_fn(|| self.frame()).any(|frame| frame.kind == PING && frame.payload == b"isalive?")
    }
}

fn code(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[..4].try_into().unwrap())
}

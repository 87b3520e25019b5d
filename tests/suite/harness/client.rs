//! An HTTP/1 client that sends what it is told and sees what comes back, to the byte.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::PATIENCE;

/// A connection to the node.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// A response, as it came.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    /// Whether the body ended as its framing says, rather than with the connection.
    pub complete: bool,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the node accepts");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, buffer: Vec::new() }
    }

    /// Connects from an address of this machine.
    pub fn connect_from(from: [u8; 4], address: SocketAddr) -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
        socket.connect(&address.into()).expect("the node accepts");
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { stream, buffer: Vec::new() }
    }

    /// The same where the node may be gone.
    pub fn try_connect(address: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        Some(Client { stream, buffer: Vec::new() })
    }

    /// The response to a GET, where the node may be gone before it has sent the head.
    pub fn try_response(&mut self) -> Option<Response> {
        while find(&self.buffer, b"\r\n\r\n").is_none() {
            if !self.fill() {
                return None;
            }
        }
        Some(self.response("GET"))
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the node takes it");
    }

    /// Sends without minding whether it still gets there.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    pub fn get(&mut self, path: &str, fields: &[&str]) -> Response {
        self.request("GET", path, fields, "")
    }

    pub fn request(&mut self, method: &str, path: &str, fields: &[&str], body: &str) -> Response {
        let mut text = format!("{method} {path} HTTP/1.1\r\n");
        if !fields.iter().any(|field| field.to_ascii_lowercase().starts_with("host:")) {
            text += "Host: shop.example\r\n";
        }
        for field in fields {
            text += &format!("{field}\r\n");
        }
        if !body.is_empty() {
            text += &format!("Content-Length: {}\r\n", body.len());
        }
        self.send(format!("{text}\r\n{body}"));
        self.response(method)
    }

    /// The response to a request with this method.
    pub fn response(&mut self, method: &str) -> Response {
        let head = self.head();
        let mut response = Response::from_head(head);
        let status = response.status;
        if method == "HEAD" || status == 204 || status == 304 || status / 100 == 1 {
            response.complete = true;
        } else if response.field("transfer-encoding").is_some() {
            response.complete = self.chunked(&mut response.body);
        } else if let Some(length) = response.field("content-length") {
            let length = length.parse().unwrap();
            response.complete = self.exactly(length, &mut response.body);
        } else {
            while self.fill() {}
            response.body.append(&mut self.buffer);
        }
        response
    }

    /// Only the head: the body is read by [`Client::read_some`].
    pub fn head(&mut self) -> String {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let head = self.buffer.drain(..end + 4).collect();
                return String::from_utf8(head).expect("a head is text");
            }
            let there = String::from_utf8_lossy(&self.buffer).into_owned();
            assert!(self.fill(), "the connection ended before a response head; there was {there:?}");
        }
    }

    /// Whatever has come, at least one byte; empty at the end.
    pub fn read_some(&mut self) -> Vec<u8> {
        if self.buffer.is_empty() {
            self.fill();
        }
        std::mem::take(&mut self.buffer)
    }

    /// What has come by now.
    pub fn read_now(&mut self) -> Vec<u8> {
        let mut space = [0; 4096];
        self.stream.set_nonblocking(true).unwrap();
        let read = self.stream.read(&mut space).unwrap_or(0);
        self.stream.set_nonblocking(false).unwrap();
        [std::mem::take(&mut self.buffer).as_slice(), &space[..read]].concat()
    }

    /// The connection itself, for a thread that only writes.
    pub fn stream(&self) -> TcpStream {
        self.stream.try_clone().unwrap()
    }

    /// Whether the node has closed the connection and nothing more came.
    pub fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && !self.fill()
    }

    /// Reads on; whether the connection ends by a reset rather than orderly.
    pub fn ends_by_reset(&mut self) -> bool {
        let mut space = [0; 65_536];
        loop {
            match self.stream.read(&mut space) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) => return error.kind() == io::ErrorKind::ConnectionReset,
            }
        }
    }

    /// Ends the sending side.
    pub fn finish(&self) {
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
    }

    fn exactly(&mut self, length: usize, body: &mut Vec<u8>) -> bool {
        while self.buffer.len() < length {
            if !self.fill() {
                body.append(&mut self.buffer);
                return false;
            }
        }
        body.extend(self.buffer.drain(..length));
        true
    }

    fn chunked(&mut self, body: &mut Vec<u8>) -> bool {
        loop {
            let end = loop {
                match find(&self.buffer, b"\r\n") {
                    Some(end) => break end,
                    None if !self.fill() => return false,
                    None => {}
                }
            };
            let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
            let size = usize::from_str_radix(std::str::from_utf8(&line[..end]).unwrap(), 16).unwrap();
            if !self.exactly(size, body) || !self.exactly(2, &mut Vec::new()) {
                return false;
            }
            if size == 0 {
                return true;
            }
        }
    }

    /// `false` at the end, be it orderly or by reset.
    fn fill(&mut self) -> bool {
        let mut space = [0; 65_536];
        match self.stream.read(&mut space) {
            Ok(0) => false,
            Ok(read) => {
                self.buffer.extend_from_slice(&space[..read]);
                true
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("no answer from the node: {error}"),
        }
    }
}

impl Response {
    fn from_head(head: String) -> Self {
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
        Response { status, head, body: Vec::new(), complete: false }
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields(name).into_iter().next()
    }

    pub fn fields(&self, name: &str) -> Vec<&str> {
        let value = |line: &'_ str| -> Option<(usize, usize)> {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some((line.len() - value.len(), line.len()))
        };
        let lines = self.head.lines().skip(1);
        lines.filter_map(|line| value(line).map(|(start, end)| line[start..end].trim())).collect()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// What the cache did; empty if it was not asked.
    pub fn cache(&self) -> &str {
        self.field("cache-status").unwrap_or_default()
    }

    pub fn is_hit(&self) -> bool {
        self.cache().contains("; hit")
    }
}

pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

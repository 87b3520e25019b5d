//! An origin that answers by script and remembers what it was asked.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use super::PATIENCE;
use super::client::find;

/// A running origin.
pub struct Origin {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    requests: Mutex<Vec<Request>>,
    arrived: Condvar,
    stopped: AtomicBool,
    connections: AtomicUsize,
    open: Mutex<Vec<TcpStream>>,
    /// Keeps the port once nobody listens there: no other test gets it.
    port: Mutex<Option<socket2::Socket>>,
}

/// A request as the origin got it.
#[derive(Debug, Clone)]
pub struct Request {
    pub head: String,
    pub body: Vec<u8>,
    /// Whether the body ended as its framing says.
    pub complete: bool,
}

/// What the origin does for one request.
#[derive(Clone)]
pub enum Step {
    Send(Vec<u8>),
    /// Waits until the test lets it go on.
    Wait(Gate),
    /// Echoes everything from now on, as after an upgrade.
    Echo,
    Close,
}

/// A port that refuses connections and that nobody else gets meanwhile: bound, but not listening.
pub struct DeadPort {
    pub address: SocketAddr,
    _socket: socket2::Socket,
}

impl DeadPort {
    pub fn new() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        DeadPort { address: socket.local_addr().unwrap().as_socket().unwrap(), _socket: socket }
    }
}

/// Shut until the test opens it.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let open = self.0.0.lock().unwrap();
        let waited = self.0.1.wait_timeout_while(open, PATIENCE, |open| !*open).unwrap();
        assert!(!waited.1.timed_out(), "the gate was never opened");
    }
}

/// Builds the usual answers.
pub struct Reply;

impl Reply {
    pub fn ok(fields: &[&str], body: impl AsRef<[u8]>) -> Vec<Step> {
        Self::status(200, fields, body)
    }

    pub fn status(status: u16, fields: &[&str], body: impl AsRef<[u8]>) -> Vec<Step> {
        let body = body.as_ref();
        let mut bytes = Self::head(status, fields);
        bytes.truncate(bytes.len() - 2);
        bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
        bytes.extend_from_slice(body);
        vec![Step::Send(bytes)]
    }

    /// A head that no body may follow, as that of a 304.
    pub fn head_only(status: u16, fields: &[&str]) -> Vec<Step> {
        vec![Step::Send(Self::head(status, fields))]
    }

    pub fn head(status: u16, fields: &[&str]) -> Vec<u8> {
        let mut text = format!("HTTP/1.1 {status} Answer\r\n");
        for field in fields {
            text += &format!("{field}\r\n");
        }
        (text + "\r\n").into_bytes()
    }
}

impl Request {
    pub fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Origin {
    /// Starts on a free port.
    pub fn start(answer: impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", answer)
    }

    pub fn start_at(address: &str, answer: impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            requests: Mutex::default(),
            arrived: Condvar::new(),
            stopped: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            open: Mutex::default(),
            port: Mutex::default(),
        });
        let (for_listener, answer) = (shared.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if for_listener.stopped.load(Ordering::SeqCst) {
                    return;
                }
                for_listener.connections.fetch_add(1, Ordering::SeqCst);
                for_listener.open.lock().unwrap().push(stream.try_clone().unwrap());
                let (shared, answer) = (for_listener.clone(), answer.clone());
                std::thread::spawn(move || serve(stream, &shared, &*answer));
            }
        });
        Origin { address, shared }
    }

    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.shared.requests.lock().unwrap().len()
    }

    /// Waits until it has had so many requests.
    pub fn wait_for(&self, count: usize) -> Vec<Request> {
        let requests = self.shared.requests.lock().unwrap();
        let (requests, waited) =
            self.shared.arrived.wait_timeout_while(requests, PATIENCE, |requests| requests.len() < count).unwrap();
        assert!(!waited.timed_out(), "only {} of {count} requests came", requests.len());
        requests.clone()
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Ends it as a killed process ends: the port is closed, connections are reset. Nobody else gets the port, but for
    /// who asks for just this one.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address); // wakes the listener, which then lets the port go
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        let mut port = self.shared.port.lock().unwrap();
        if port.is_none() {
            // As soon as the listener has let it go.
            *port = Some(super::eventually("the port", || reserve(self.address)));
        }
    }
}

/// Binds a port without listening: connections to it are refused.
fn reserve(address: SocketAddr) -> Option<socket2::Socket> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None).ok()?;
    socket.set_reuse_address(true).ok()?;
    socket.bind(&address.into()).ok()?;
    TcpStream::connect_timeout(&address, PATIENCE).is_err().then_some(socket)
}

impl Drop for Origin {
    fn drop(&mut self) {
        if self.shared.port.lock().is_ok_and(|port| port.is_none()) {
            self.shared.stopped.store(true, Ordering::SeqCst);
            let _ = TcpStream::connect(self.address); // wakes the listener, which then lets the port go
            for stream in self.shared.open.lock().into_iter().flat_map(|mut open| std::mem::take(&mut *open)) {
                let _ = stream.shutdown(std::net::Shutdown::Both);
            }
        }
    }
}

fn serve(mut stream: TcpStream, shared: &Shared, answer: &(dyn Fn(&Request) -> Vec<Step> + Send + Sync)) {
    stream.set_nodelay(true).unwrap();
    let mut buffer = Vec::new();
    loop {
        let Some(head) = read_until(&mut stream, &mut buffer, b"\r\n\r\n") else { return };
        let mut request = Request { head: String::from_utf8_lossy(&head).into_owned(), body: vec![], complete: true };
        let expects = request.field("expect").is_some();
        if expects && stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").is_err() {
            return;
        }
        if let Some(length) = request.field("content-length") {
            let length = length.parse().unwrap();
            request.complete = read_exactly(&mut stream, &mut buffer, length, &mut request.body);
        } else if request.field("transfer-encoding").is_some() {
            request.complete = read_chunked(&mut stream, &mut buffer, &mut request.body);
        }
        let complete = request.complete;
        shared.requests.lock().unwrap().push(request.clone());
        shared.arrived.notify_all();
        if !complete {
            return;
        }
        for step in answer(&request) {
            match step {
                Step::Send(bytes) => {
                    if stream.write_all(&bytes).is_err() {
                        return;
                    }
                }
                Step::Wait(gate) => gate.wait(),
                Step::Close => return drop(stream.shutdown(std::net::Shutdown::Both)),
                Step::Echo => {
                    let mut space = [0; 4096];
                    while let Ok(read @ 1..) = stream.read(&mut space) {
                        if stream.write_all(&space[..read]).is_err() {
                            return;
                        }
                    }
                    return drop(stream.shutdown(std::net::Shutdown::Both));
                }
            }
        }
    }
}

fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> bool {
    let mut space = [0; 65_536];
    match stream.read(&mut space) {
        Ok(read @ 1..) => {
            buffer.extend_from_slice(&space[..read]);
            true
        }
        _ => false,
    }
}

fn read_until(stream: &mut TcpStream, buffer: &mut Vec<u8>, mark: &[u8]) -> Option<Vec<u8>> {
    loop {
        if let Some(at) = find(buffer, mark) {
            return Some(buffer.drain(..at + mark.len()).collect());
        }
        if !more(stream, buffer) {
            return None;
        }
    }
}

fn read_exactly(stream: &mut TcpStream, buffer: &mut Vec<u8>, length: usize, body: &mut Vec<u8>) -> bool {
    while buffer.len() < length {
        if !more(stream, buffer) {
            body.append(buffer);
            return false;
        }
    }
    body.extend(buffer.drain(..length));
    true
}

fn read_chunked(stream: &mut TcpStream, buffer: &mut Vec<u8>, body: &mut Vec<u8>) -> bool {
    loop {
        let Some(line) = read_until(stream, buffer, b"\r\n") else { return false };
        let size = std::str::from_utf8(&line).unwrap().trim();
        let size = usize::from_str_radix(size, 16).unwrap();
        if !read_exactly(stream, buffer, size, body) || !read_exactly(stream, buffer, 2, &mut Vec::new()) {
            return false;
        }
        if size == 0 {
            return true;
        }
    }
}

//! Tunnels: after a 101, bytes are carried both ways and not looked at. Not pingora's: its proxy ends a tunnel at
//! once whose 101 comes before it has told itself that the request had no body.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{StatusCode, header};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, copy_bidirectional};

use crate::cache::head::Head;
use crate::cache::hold::Kept;
use crate::cache::status::Report;
use crate::origin::exchange::Exchange;
use crate::origin::h1::OriginStream;
use crate::plan::PassReason;
use crate::snapshot::Snapshot;

use super::super::serve::Sent;
use super::super::stream::ClientStream;
use super::Connection;

impl Connection {
    /// Tells the client that the protocol changes and carries what follows, to its end.
    pub(super) async fn tunnel(
        &mut self,
        snapshot: &Snapshot,
        mut exchange: Box<Exchange>,
        site: usize,
        route: usize,
    ) -> (Sent, Report) {
        let report = Report::Pass(PassReason::CacheOff.cache_status());
        let mut sent = Sent { status: StatusCode::SWITCHING_PROTOCOLS, bytes: 0, error: None, why: None };
        let idle = snapshot.config.pool(snapshot.route(site, route).pool).timeouts.tunnel;
        let protocol = exchange.fields.get(header::UPGRADE).cloned();
        let head = Head::private(exchange.status, std::mem::take(&mut exchange.fields));
        let mut tail = String::from("connection: upgrade\r\n");
        if let Some(protocol) = protocol.as_ref().and_then(|protocol| protocol.to_str().ok()) {
            tail += &format!("upgrade: {protocol}\r\n");
        }
        let node = &snapshot.config.node.name;
        tail += &format!("via: 1.1 {node}\r\ncache-status: ");
        report.write(&mut tail, node);
        tail += "\r\n\r\n";
        let Some((early, mut origin, _active)) = exchange.into_tunnel() else {
            sent.error = Some("the origin's connection could not be taken over".to_owned());
            return (sent, report);
        };
        let moved = Moved::default();
        let carried = async {
            self.write_held([head.h1(), tail.as_bytes(), &early], Kept::Nothing, |_| {}).await?;
            // What the client did not wait to send until it was told.
            let before = std::mem::take(&mut self.buffer);
            let giving = async {
                origin.write_all(&before).await?;
                origin.flush().await
            };
            tokio::time::timeout(idle, giving).await??;
            carry(&mut self.stream, &mut origin, idle, &moved).await
        };
        sent.error = carried.await.err().map(|error| format!("tunnel: {error}"));
        sent.bytes = early.len() as u64 + moved.received.load(Ordering::Relaxed);
        (sent, report)
    }
}

/// Carries bytes both ways until both sides have ended, or neither has moved any for `idle`.
async fn carry(client: &mut ClientStream, origin: &mut OriginStream, idle: Duration, moved: &Moved) -> io::Result<()> {
    let mut origin = Watched { stream: origin, moved };
    tokio::select! {
        copied = copy_bidirectional(client, &mut origin) => copied.map(drop),
        () = silence(moved, idle) => Err(io::Error::new(io::ErrorKind::TimedOut, "neither side sent anything")),
    }
}

/// Bytes that went between node and origin.
#[derive(Default)]
struct Moved {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Moved {
    fn total(&self) -> u64 {
        self.received.load(Ordering::Relaxed) + self.sent.load(Ordering::Relaxed)
    }
}

/// Returns when nothing has moved for `idle`, give or take a quarter.
async fn silence(moved: &Moved, idle: Duration) {
    let (mut before, mut quiet) = (0, 0);
    while quiet < 4 {
        tokio::time::sleep(idle / 4).await;
        let now = moved.total();
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
    }
}

/// Counts what goes through the origin's connection.
struct Watched<'s> {
    stream: &'s mut OriginStream,
    moved: &'s Moved,
}

impl AsyncRead for Watched<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut *self.stream).poll_read(cx, buf);
        self.moved.received.fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        read
    }
}

impl AsyncWrite for Watched<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.stream).poll_write(cx, data);
        if let Poll::Ready(Ok(written)) = &written {
            self.moved.sent.fetch_add(*written as u64, Ordering::Relaxed);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(cx)
    }
}

//! Tunnels: after a 101, bytes are carried both ways and not looked at.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{StatusCode, header};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

use crate::cache::head::Head;
use crate::cache::hold::Kept;
use crate::cache::status::Report;
use crate::config::model::PoolId;
use crate::origin::exchange::Exchange;
use crate::origin::h1::OriginStream;
use crate::plan::PassReason;
use crate::snapshot::Snapshot;

use super::super::serve::Sent;
use super::super::stream::{ClientStream, timed_out};
use super::Connection;

impl Connection {
    /// Tells the client that the protocol changes and carries what follows, to its end.
    pub(super) async fn tunnel(
        &mut self,
        snapshot: &Snapshot,
        mut exchange: Box<Exchange>,
        pool: PoolId,
    ) -> (Sent, Report) {
        let report = Report::Pass(PassReason::CacheOff.cache_status());
        let mut sent = Sent { status: StatusCode::SWITCHING_PROTOCOLS, bytes: 0, error: None, why: None };
        let idle = snapshot.config.pool(pool).timeouts.tunnel;
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
        let Some((early, mut origin, _in_use)) = exchange.into_tunnel() else {
            sent.error = Some("the origin's connection could not be taken over".to_owned());
            return (sent, report);
        };
        let moved = Moved::default();
        let carried = async {
            self.write_held([head.h1(), tail.as_bytes(), &early], Kept::Nothing).await?;
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
    let (from_client, to_client) = tokio::io::split(client);
    let (from_origin, to_origin) = tokio::io::split(origin);
    let sending = carry_one_way(from_client, to_origin, moved, &moved.sent);
    let receiving = carry_one_way(from_origin, to_client, moved, &moved.received);
    tokio::select! {
        carried = async { tokio::try_join!(sending, receiving) } => carried.map(drop),
        () = silence(moved, idle) => Err(timed_out("neither side sent anything")),
        () = async {
            moved.has_ended.notified().await;
            silence(moved, idle.min(HALF_OPEN)).await;
        } => Err(timed_out("one side has ended, and the other sent nothing more")),
    }
}

/// Carries what one side sends to its end, counting it.
async fn carry_one_way(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: &Moved,
    count: &AtomicU64,
) -> io::Result<()> {
    let mut space = vec![0; PIECE];
    loop {
        let length = from.read(&mut space).await?;
        if length == 0 {
            moved.has_ended.notify_one();
            return to.shutdown().await;
        }
        count.fetch_add(length as u64, Ordering::Relaxed);
        to.write_all(&space[..length]).await?;
        to.flush().await?;
    }
}

/// How long the one side may be silent when the other has ended.
const HALF_OPEN: Duration = Duration::from_secs(30);

/// Bytes that are carried at once, each way.
const PIECE: usize = 8 << 10;

/// Bytes that came from either side.
#[derive(Default)]
struct Moved {
    received: AtomicU64,
    sent: AtomicU64,
    /// One side has.
    has_ended: Notify,
}

/// Returns when nothing has moved for `idle`, give or take a quarter.
async fn silence(moved: &Moved, idle: Duration) {
    let (mut before, mut quiet) = (0, 0);
    while quiet < 4 {
        tokio::time::sleep(idle / 4).await;
        let now = moved.received.load(Ordering::Relaxed) + moved.sent.load(Ordering::Relaxed);
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
    }
}

//! One client's connection: the socket, the time and whoever else has to do with it, around the [`Machine`] that decides.

use std::future::poll_fn;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::drain::Stage;
use crate::pace::Pace;

use super::super::alarm::Alarm;
use super::super::open::Place;
use super::super::serve::Shared;
use super::super::stream::ClientStream;
use super::machine::{Leaving, Machine};
use super::respond::Node;
use super::socket::{poll_read, poll_write};
use super::stream::Outbox;
use super::wire::Reason;

pub(crate) struct Connection {
    machine: Machine<Node>,
    shared: Arc<Shared>,
    stage: watch::Receiver<Stage>,
    stream: ClientStream,
    /// Of the configuration whose limits hold.
    generation: u64,
    /// Among all connections.
    place: Arc<Place>,
    /// Where the tasks that answer leave word.
    outbox: Arc<Outbox>,
    alarm: Alarm,
    /// When something is to be done though nothing happens.
    deadline: Instant,
}

/// What has happened.
enum Event {
    /// Something was read.
    Read,
    /// Something was written or left by a task.
    Io,
    Time,
    Shutdown,
    /// The client has gone.
    Gone,
    /// Another connection needs the room.
    GiveWay,
}

impl Connection {
    pub(crate) fn new(
        shared: Arc<Shared>,
        stage: watch::Receiver<Stage>,
        stream: ClientStream,
        place: Arc<Place>,
    ) -> Self {
        let (limits, generation) = {
            let snapshot = shared.snapshot.load();
            (snapshot.config.limits.clone(), snapshot.generation)
        };
        let outbox = Outbox::new(shared.engine.cache.memory.waiting().clone(), place.prefix);
        let node = Node { shared: shared.clone(), endpoints: stream.endpoints() };
        let now = Instant::now();
        Connection {
            machine: Machine::new(node, limits, outbox.clone(), now),
            shared,
            stage,
            stream,
            generation,
            place,
            outbox,
            alarm: Alarm::default(),
            deadline: now,
        }
    }

    /// Serves requests until the connection ends. `read`: what was read of it already.
    pub(crate) async fn serve(mut self, read: BytesMut) {
        *self.machine.input() = read;
        if !self.begin().await {
            return;
        }
        // Requests may have come with the preface: a client need not wait for the node's settings (RFC 9113 section 3.4).
        let reason = match self.machine.progress(Instant::now()) {
            Ok(()) => self.go_on().await,
            Err(reason) => Some(reason),
        };
        Box::pin(self.end(reason)).await; // large, and only then
    }

    /// Serves requests for as long as there may be more; why there are none.
    async fn go_on(&mut self) -> Option<Reason> {
        loop {
            let had_output = !self.machine.output().is_done();
            let event = self.event().await;
            let now = Instant::now();
            self.renew_limits();
            if had_output && self.machine.output().is_done() {
                self.machine.active = now;
            }
            match event {
                Event::Gone => return None,
                Event::GiveWay => {
                    // Whoever is to make room is not waited for; but it may hear of it.
                    self.machine.leave();
                    let mut cx = Context::from_waker(Waker::noop());
                    let _ = poll_write(self.machine.output(), &mut self.stream, &mut cx); // best effort
                    return None;
                }
                Event::Shutdown => self.machine.announce_end(now),
                Event::Read | Event::Io | Event::Time => {
                    if matches!(event, Event::Read) {
                        self.machine.hear(now);
                    }
                    // Where something is always to be read, the time and the shutdown have their turn all the same.
                    if *self.stage.borrow() >= Stage::Leaving {
                        self.machine.announce_end(now);
                    }
                    if now >= self.deadline
                        && let ControlFlow::Break(end) = self.machine.on_time(now)
                    {
                        return end;
                    }
                }
            }
            if let Err(reason) = self.machine.progress(now) {
                return Some(reason);
            }
            if self.machine.is_over() && self.machine.output().is_done() {
                return Some(Reason::NoError);
            }
        }
    }

    /// Waits for what a connection begins with. Whether it came.
    async fn begin(&mut self) -> bool {
        let patience = self.machine.limits.header_timeout;
        let Connection { stream, machine, place, .. } = self;
        let beginning = async {
            loop {
                if let Poll::Ready(is_http2) = machine.begin(Instant::now()) {
                    return Ok::<_, io::Error>(is_http2);
                }
                if stream.read_buf(machine.input()).await? == 0 {
                    return Ok(false);
                }
            }
        };
        tokio::select! {
            begun = timeout(patience, beginning) => matches!(begun, Ok(Ok(true))),
            () = place.told() => false,
        }
    }

    fn renew_limits(&mut self) {
        let snapshot = self.shared.snapshot.load();
        if snapshot.generation == self.generation {
            return;
        }
        self.generation = snapshot.generation;
        self.stream.set_pace(Pace::of(&snapshot.config.limits));
        self.machine.set_limits(snapshot.config.limits.clone());
    }

    /// Waits until there is something to do.
    async fn event(&mut self) -> Event {
        let now = Instant::now();
        let deadline = self.machine.deadline(now);
        self.deadline = deadline.unwrap_or_else(|| now + self.machine.limits.keepalive_timeout);
        let (is_over, is_idle) = (self.machine.is_over(), self.machine.is_idle());
        let is_leaving = self.machine.leaving != Leaving::No;
        match is_idle {
            true => self.place.rest(),
            false => self.place.work(),
        }
        let (may_read, has_more) = (self.machine.may_read(), self.machine.has_more());
        let Connection { stream, machine, outbox, alarm, stage, place, deadline, .. } = self;
        let mut left = Vec::new();
        let io = poll_fn(|cx| {
            match poll_write(machine.output(), stream, cx) {
                Poll::Ready(Err(_)) => return Poll::Ready(Event::Gone),
                Poll::Ready(Ok(())) if is_over => return Poll::Ready(Event::Io),
                _ => {}
            }
            if outbox.poll_ready(cx, &mut left).is_ready() || has_more && machine.has_room() {
                return Poll::Ready(Event::Io);
            }
            if !may_read {
                return Poll::Pending;
            }
            match poll_read(machine.input(), stream, cx) {
                Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(Event::Gone),
                Poll::Ready(Ok(_)) => Poll::Ready(Event::Read),
                Poll::Pending => Poll::Pending,
            }
        });
        let event = tokio::select! {
            biased;
            event = io => event,
            () = alarm.at(*deadline) => Event::Time,
            () = place.told(), if is_idle => Event::GiveWay,
            _ = stage.wait_for(|stage| *stage >= Stage::Leaving), if !is_leaving => Event::Shutdown,
        };
        left.iter().for_each(|stream| machine.streams.look(stream, &mut machine.output));
        event
    }

    /// Ends the connection: says why, if there is somebody to say it to, and waits for the tasks to know.
    async fn end(mut self, reason: Option<Reason>) {
        self.machine.end(reason);
        if reason.is_some() {
            let (most, patience) = (self.machine.limits.max_drain.0, self.machine.limits.write_timeout);
            let Connection { stream, machine, .. } = &mut self;
            let saying = async {
                poll_fn(|cx| poll_write(machine.output(), stream, cx)).await?;
                stream.linger(most).await
            };
            let _ = timeout(patience, saying).await; // best effort
        }
        let mut left = Vec::new();
        while self.outbox.live() > 0 {
            poll_fn(|cx| match self.outbox.live() {
                0 => Poll::Ready(()),
                _ => self.outbox.poll_ready(cx, &mut left),
            })
            .await;
            for stream in left.drain(..) {
                stream.look();
            }
        }
        self.outbox.close();
    }
}

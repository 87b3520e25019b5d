//! What answers the requests of a connection: memory at once, and a task whatever is not there.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::config::model::Limits;

use super::super::head::{BodyFraming, Endpoints, Refusal, RequestHead};
use super::super::serve::{self, Request, Sent, Shared};
use super::answer::{self, Task};
use super::handle::Handle;
use super::hpack::Section;
use super::machine::{Responder, Scratch};

/// The node, as one connection asks it.
pub(super) struct Node {
    pub shared: Arc<Shared>,
    pub endpoints: Endpoints,
}

impl Responder for Node {
    fn respond_now(&mut self, head: &RequestHead<'_>, most: usize, scratch: &mut Scratch) -> Option<Bytes> {
        let snapshot = self.shared.snapshot.load();
        let request = Request::new(&self.shared, &snapshot, head.view(self.endpoints));
        let (mut response, report, site) = request.in_memory(&mut scratch.key)?;
        let body = response.take_whole(&head.method).filter(|body| body.len() <= most)?;
        let Scratch { section, text, .. } = scratch;
        section.clear();
        answer::write_section(section, text, &response, Some(&report), &snapshot.config.node.name);
        let sent = Sent { status: response.status(), bytes: body.len() as u64, error: None, why: None };
        request.record(Some(site), Some(&report), &sent);
        Some(body)
    }

    fn refuse(&mut self, refusal: Refusal, scratch: &mut Scratch) -> Bytes {
        let mut response = serve::refuse(&self.shared, self.endpoints, refusal);
        let body = response.body.whole().unwrap_or_default();
        let Scratch { section, text, .. } = scratch;
        section.clear();
        answer::write_section(section, text, &response, None, &self.shared.snapshot.load().config.node.name);
        body
    }

    fn respond_later(&mut self, section: Section, body: BodyFraming, limits: &Limits, stream: Handle) {
        let task = Task {
            section,
            body,
            endpoints: self.endpoints,
            shared: Arc::clone(&self.shared),
            limits: limits.clone(),
            times: (Timestamp::now(), Instant::now()),
        };
        tokio::spawn(answer::answer(task, stream));
    }

    fn count_refused_stream(&mut self) {
        self.shared.observer.metrics.streams_refused.inc();
    }
}

//! `compress_passed`: which responses are compressed as they pass, for whom, and how many at one time.

use std::sync::Arc;

use http::{Method, StatusCode, Version, header};

use crate::cache::coding;
use crate::cache::vary;
use crate::cache::waiting::Share;
use crate::config::model::CompressRules;
use crate::observe::metrics::Metrics;
use crate::representation::respond::Reply;

use super::coder::Coder;
use super::reply::ClientResponse;
use super::serve::Request;

impl Request<'_> {
    /// A response as a route compresses it that is not stored; any other, and what has no suitable type, as it is.
    pub(super) fn compressed(&self, response: ClientResponse, rules: &CompressRules) -> ClientResponse {
        let (head, length, status) = (response.head(), response.length(), response.status());
        // The length is the only sign by which some clients of HTTP/1.0 know that a body is whole.
        if !response.body.is_passed() || self.view.version < Version::HTTP_11 {
            return response;
        }
        if status == StatusCode::NOT_MODIFIED {
            return self.confirmed(response);
        }
        if !coding::suits_passing(rules, head.status, &head.fields(), length) {
            return response;
        }
        let is_head = *self.view.method == Method::HEAD;
        // Of a body that has none of its bytes, or only some, there is nothing to be saved.
        let is_whole = response.reply == Reply::Full && (is_head || !response.body.is_over());
        let coding = coding::best(rules, self.view.fields).filter(|_| is_whole);
        let room = coding.and_then(|_| self.room_to_code());
        match (coding, room) {
            (Some(coding), Some(_)) if is_head => response.coded(coding, None),
            (Some(coding), Some(room)) => match Coder::new(coding, length, room, self.metrics().clone()) {
                Ok(coder) => response.coded(coding, Some(coder)),
                Err(error) => {
                    tracing::warn!(%error, ?coding, "a response goes uncompressed");
                    response.varying_by_coding()
                }
            },
            _ => response.varying_by_coding(),
        }
    }

    /// A 304 for who has the response coded, as that was (RFC 9110 section 15.4.5).
    fn confirmed(&self, response: ClientResponse) -> ClientResponse {
        let fields = response.head().fields();
        match fields.get(header::ETAG).filter(|etag| coding::has_coded(self.view.fields, etag.as_bytes())) {
            Some(_) => response.edited(|fields| {
                vary::add_coding(fields);
                coding::weaken(fields);
            }),
            None => response,
        }
    }

    /// Room for one more coder, if there is some.
    fn room_to_code(&self) -> Option<Share> {
        let prefix = self.snapshot.config.node.prefix_of(self.view.client);
        let room = self.shared.engine.cache.memory.waiting().coders.take(prefix, 1);
        if room.is_none() {
            self.metrics().compress_skipped.inc();
        }
        room
    }

    fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.engine.cache.metrics
    }
}

//! `compress_passed`: which responses are compressed as they pass, for whom, and how many at one time.

use http::Method;

use crate::cache::coding;
use crate::cache::respond::Reply;
use crate::config::model::{Coding, CompressRules};

use super::coder::Coder;
use super::reply::ClientResponse;
use super::serve::Request;

impl Request<'_> {
    /// A response as a route compresses it that is not stored; any other, and what has no suitable type, as it is.
    pub(super) fn compressed(&self, response: ClientResponse, rules: &CompressRules) -> ClientResponse {
        if !response.body.is_passed() {
            return response;
        }
        let (head, length) = (response.head(), response.length());
        if !coding::suits_passing(rules, head.status, &head.fields(), length) {
            return response;
        }
        let is_head = *self.view.method == Method::HEAD;
        // Of a body that has none of its bytes, or only some, there is nothing to be saved.
        let is_whole = response.reply == Reply::Full && (is_head || !response.body.is_over());
        let coding = coding::best(rules, self.view.fields).filter(|_| is_whole);
        match coding {
            Some(coding) if is_head => response.coded(Some(coding), None),
            Some(coding) => {
                let coder = self.coder(coding, length);
                response.coded(coder.is_some().then_some(coding), coder)
            }
            None => response.coded(None, None),
        }
    }

    /// A coder, if there may be one more.
    fn coder(&self, coding: Coding, length: Option<u64>) -> Option<Coder> {
        let cache = &self.shared.engine.cache;
        let prefix = self.snapshot.config.node.prefix_of(self.view.client);
        let coder = cache.memory.waiting().coders.take(prefix, 1).map(|room| {
            let coder = Coder::new(coding, length, room, cache.metrics.clone());
            coder.inspect_err(|error| tracing::warn!(%error, ?coding, "a response goes uncompressed"))
        });
        let coder = coder.and_then(Result::ok);
        if coder.is_none() {
            cache.metrics.compress_skipped.inc();
        }
        coder
    }
}

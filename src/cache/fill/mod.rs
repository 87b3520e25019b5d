//! The fill: the one transfer from an origin that creates or refreshes an object. It runs in a task of its
//! own, so that no client's pace or leave touches it.

mod complete;
mod deliver;
mod keep;
mod receive;
mod request;

use std::sync::Arc;

use http::{HeaderName, StatusCode, header};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::origin::attempts;
use crate::origin::connect::Connector;
use crate::origin::error::OriginError;
use crate::origin::exchange::Exchange;
use crate::running::RunningRequest;

use super::flight::{Flight, FlightReader, Settled};
use super::flights::Flights;
use super::head::Head;
use super::object::Object;
use super::purge::Standing;
use super::slice::SliceVerdict;
use super::stored::Cache;

use request::confirms_another;
pub(crate) use request::{FillRequest, asked_range};

/// One fill. However it ends, by a panic even, whoever follows its flight is told.
pub(crate) struct Fill {
    pub cache: Arc<Cache>,
    pub flights: Arc<Flights>,
    pub connector: Arc<Connector>,
    pub flight: Arc<Flight>,
    pub request: Box<FillRequest>,
    /// The place of the request that caused it among those of its site, until the origin's answer has been read.
    pub running: Mutex<Option<RunningRequest>>,
}

/// A response that only the request which caused the fill may have.
pub struct PrivateResponse {
    pub head: Head,
    pub length: Option<u64>,
    pub body: PrivateBody,
}

/// How the body of such a response comes.
pub enum PrivateBody {
    /// By the fill, which keeps it.
    Kept(FlightReader),
    /// As its reader reads it.
    Passed(Unread),
    /// What is stored, or was.
    Stored(Arc<Object>),
}

/// What is to be read of an origin's answer.
pub struct Unread {
    pub exchange: Box<Exchange>,
    /// Bytes that come at most, where the framing does not say so.
    pub left: u64,
}

impl Fill {
    /// Runs it to its end. `owner`: the request that caused it, for what is for that alone.
    pub(crate) async fn run(mut self, owner: oneshot::Sender<PrivateResponse>) {
        self.request.let_the_dead_rest(&self.cache.purges);
        self.request.origin.interims = Some(self.flight.interims.clone());
        if self.request.facts().is_impersonal(self.request.rules()) {
            self.flight.set_impersonal();
        }
        self.request.add_conditions();
        let Some(mut answer) = self.complete().await else { return };
        if let (Ok(exchange), Some(stale)) = (&answer, &self.request.stale)
            && exchange.status == StatusCode::NOT_MODIFIED
            && (confirms_another(&exchange.fields, stale) || stale.standing(&self.cache.purges) == Standing::Dead)
        {
            // It says nothing about what is stored here (RFC 9111 section 4.3.4), or a purge has killed that meanwhile. What
            // lives may still stand in for an origin that fails now.
            self.request.let_the_dead_rest(&self.cache.purges);
            answer = self.ask_without(&[header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE]).await;
        }
        match answer {
            Ok(exchange) if !self.is_of_use(&exchange) => self.flight.settle(Settled::Failed(OriginError::NotInSlices)),
            Ok(exchange) => self.receive(exchange, owner).await,
            Err(error) => {
                let settled = self.stale_instead(None).unwrap_or(Settled::Failed(error));
                // Before they hear of it: who then asks for itself must not join what has failed.
                self.flights.remove(&self.flight);
                self.flight.settle(settled);
            }
        }
    }

    /// Asks an origin.
    async fn ask(&self) -> Result<Box<Exchange>, OriginError> {
        attempts::send(&self.connector, &self.request.snapshot.pools, &self.request.origin, None).await
    }

    /// Asks again, for the whole of what is there now.
    async fn ask_without(&mut self, fields: &[HeaderName]) -> Result<Box<Exchange>, OriginError> {
        fields.iter().for_each(|name| self.request.origin.fields.remove(name.as_str()));
        self.ask().await
    }

    /// Whether an answer to who asked for a slice is one, or the answer to the request as it is.
    fn is_of_use(&mut self, exchange: &Exchange) -> bool {
        let Some(slice) = self.request.slice.take() else { return true };
        match slice.verdict(exchange.status, &exchange.fields) {
            SliceVerdict::Slice => self.request.slice = Some(slice),
            SliceVerdict::Other => self.request.key = slice.of,
            SliceVerdict::Whole => {
                self.cache.uncacheable.remember_unsliced(&slice.of);
                self.request.key = slice.of;
            }
            SliceVerdict::Unusable => {
                self.cache.uncacheable.remember_unsliced(&slice.of);
                return false;
            }
        }
        true
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        self.flights.remove(&self.flight);
        if std::thread::panicking() {
            self.cache.metrics.fills_lost.inc();
        }
        self.flight.abort(OriginError::FillLost); // does nothing to one that has ended
    }
}

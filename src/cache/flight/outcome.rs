//! What a fill comes to: a head with a body that follows, or something else in its place.

use std::sync::Arc;

use http::HeaderMap;

use crate::clock::Timestamp;
use crate::origin::error::OriginError;

use super::super::head::Head;
use super::super::object::Object;
use super::super::policy::Storable;
use super::super::reason::SkipReason;
use super::super::status::Stored;

/// The head of a response that may be shared.
#[derive(Debug)]
pub struct FlightHead {
    pub head: Head,
    /// Of the body.
    pub length: Option<u64>,
    pub storable: Storable,
    /// Fields for the request alone that caused the fill.
    pub own: HeaderMap,
    /// Why it will not be stored, where that is known from the beginning.
    pub skipped: Option<SkipReason>,
    /// What the log says of it, if the origin cannot serve now.
    pub outage: Option<String>,
    /// Whether room in memory is taken for all of it: else nobody knows whether it will be stored.
    pub has_room: bool,
}

impl FlightHead {
    /// What is said of its storing.
    pub fn stored(&self) -> Stored {
        match (self.skipped, Stored::with(&self.storable.freshness, Timestamp::now())) {
            (Some(reason), _) => Stored::No(reason),
            (None, Stored::Yes { basis, ttl }) if !self.has_room => Stored::IfItFits { basis, ttl },
            (None, stored) => stored,
        }
    }
}

/// How a fill ended that brought nothing to stream.
#[derive(Clone)]
pub enum Settled {
    /// A stored response is to be used: validated by the origin, or stale because the origin failed.
    Object(Arc<Object>, ObjectUse),
    /// The response is for the request alone that caused the fill; what became of it.
    Private(Stored),
    Failed(OriginError),
    /// Another fill had just stored what is wanted: look again.
    NotNeeded,
}

/// Why a fill ended with an object that was stored before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectUse {
    /// The origin answered 304.
    Validated,
    /// Likewise, and what it said besides is a reason not to keep it: it is for who asked alone.
    Confirmed(SkipReason),
    /// The origin failed or answered with this status, and stale is better than nothing.
    StaleIfError { status: Option<u16> },
}

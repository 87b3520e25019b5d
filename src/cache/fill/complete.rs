//! Going on with a response of which a part is stored (RFC 9111 section 3.4).

use bytes::Bytes;
use http::StatusCode;

use crate::clock::Timestamp;
use crate::fields::add_date;
use crate::origin::exchange::Exchange;

use super::super::coding;
use super::super::engine::Engine;
use super::super::flight::Flight;
use super::super::freshness::ExchangeTimes;
use super::super::part::Part;
use super::super::policy::Storable;
use super::super::purge::Standing;
use super::super::range::Span;
use super::super::vary;
use super::{FillRequest, judge, with_age};

/// Asks for what a stored part lacks, if that is in one piece.
pub(super) fn ask_for_the_rest(request: &mut FillRequest) -> Option<Span> {
    let part = request.part.as_ref()?;
    let missing = part.missing()?;
    part.ask_for(&missing, &mut request.origin.fields);
    Some(missing)
}

/// What goes before and after the bytes of an exchange to make a body whole.
#[derive(Default)]
pub(super) struct Around {
    pub before: Bytes,
    pub after: Bytes,
}

/// Makes of a 206 that brings what a part lacks the head of the whole, with the newer fields (RFC 9111 section 3.4).
/// `None`: it does not bring that, or what it brings may no longer be stored.
pub(super) fn completion(
    engine: &Engine,
    flight: &Flight,
    request: &FillRequest,
    part: &Part,
    missing: &Span,
    exchange: &mut Exchange,
) -> Option<(Storable, Around)> {
    let live = part.object.standing(&engine.purges) != Standing::Dead && !flight.is_spoilt();
    if !live || !part.is_completed_by(missing, &exchange.fields) {
        return None;
    }
    let times = ExchangeTimes { request: exchange.request_time, response: Timestamp::now() };
    add_date(&mut exchange.fields, times.response);
    let received = std::mem::take(&mut exchange.fields);
    let head = part.object.head.freshened_by(received.clone());
    let fields = with_age(head.fields(), &received);
    let length = Some(part.range.total);
    let Ok(mut storable) = judge(engine, request, StatusCode::OK, &fields, times, length, true) else {
        exchange.fields = received;
        return None;
    };
    (exchange.status, exchange.fields) = (StatusCode::OK, head.fields());
    if let Some(compress) = &request.rules().compress
        && coding::suits(compress, StatusCode::OK, &exchange.fields, length)
    {
        vary::add_coding(&mut exchange.fields);
    }
    storable.variant = part.object.variant.clone();
    storable.tags = part.object.tags().clone();
    let body = part.body().clone();
    let around = match missing.first > 0 {
        true => Around { before: body, after: Bytes::new() },
        false => Around { before: Bytes::new(), after: body },
    };
    Some((storable, around))
}

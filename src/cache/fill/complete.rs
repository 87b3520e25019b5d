//! Going on with a response of which a part is stored (RFC 9111 section 3.4).

use std::sync::Arc;

use bytes::Bytes;
use http::{StatusCode, header};

use crate::clock::Timestamp;
use crate::fields::add_date;
use crate::origin::error::OriginError;
use crate::origin::exchange::Exchange;

use super::super::freshness::ExchangeTimes;
use super::super::heeded;
use super::super::part::Part;
use super::super::policy::Storable;
use super::super::purge::Standing;
use super::Fill;
use super::deliver::Around;
use super::receive::only_date;
use crate::representation::range::Span;

impl Fill {
    /// Asks an origin; if a part of the response is stored, for what that lacks, and goes on with it where the answer brings
    /// that. `None`: then all is done.
    pub(super) async fn complete(&mut self) -> Option<Result<Box<Exchange>, OriginError>> {
        let Some((part, missing)) = self.ask_for_the_rest() else { return Some(self.ask().await) };
        let mut exchange = match self.ask().await {
            Ok(exchange)
                if matches!(exchange.status, StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE) =>
            {
                exchange
            }
            answer => return Some(answer),
        };
        if let Some((storable, around)) = self.completion(&part, &missing, &mut exchange) {
            self.stream(exchange, storable, Some(part.range.total), around).await;
            return None;
        }
        // What is here is of something that is no more, unless only this answer is not for all: the whole is asked for.
        let agrees = exchange.status == StatusCode::PARTIAL_CONTENT && part.is_completed_by(&missing, &exchange.fields);
        if !(agrees && self.cache.is_fresh(&part.object)) {
            self.cache.discard(&part.object);
        }
        Some(self.ask_without(&[header::RANGE, header::IF_RANGE]).await)
    }

    /// Asks for what a stored part lacks, if that is in one piece.
    fn ask_for_the_rest(&mut self) -> Option<(Arc<Part>, Span)> {
        let part = self.request.part.clone()?;
        let missing = part.missing()?;
        part.ask_for(&missing, &mut self.request.origin.fields);
        Some((part, missing))
    }

    /// Makes of a 206 that brings what a part lacks the head of the whole, with the newer fields (RFC 9111 section 3.4).
    /// `None`: it does not bring that, or what it brings may no longer be stored.
    fn completion(&self, part: &Part, missing: &Span, exchange: &mut Exchange) -> Option<(Storable, Around)> {
        let live = part.object.standing(&self.cache.purges) != Standing::Dead && !self.flight.is_spoilt();
        if !live || !part.is_completed_by(missing, &exchange.fields) {
            return None;
        }
        let times = ExchangeTimes { request: exchange.request_time, response: Timestamp::now() };
        add_date(&mut exchange.fields, times.response);
        heeded::settle(&mut exchange.fields, self.request.route(), || times.response);
        let received = std::mem::take(&mut exchange.fields);
        let head = part.object.head.freshened_by(received.clone());
        let judged = self.judge_again(&part.object, &head, &received, times, part.range.total).ok();
        // What it says to who asked alone has no place in an answer for all.
        let for_all = || part.object.head.freshened_by(only_date(&received));
        let Some(storable) = judged.filter(|ok| !self.is_about_who_asks(ok) || head.fields() == for_all().fields())
        else {
            exchange.fields = received;
            return None;
        };
        (exchange.status, exchange.fields) = (StatusCode::OK, head.fields());
        self.add_coding(exchange, Some(part.range.total));
        let (body, none) = (part.body.clone(), Bytes::new());
        let (before, after) = if missing.first > 0 { (body, none) } else { (none, body) };
        Some((storable, Around { before, after }))
    }
}

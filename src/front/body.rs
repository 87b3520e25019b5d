//! The body of a response as both fronts send it: where its pieces come from, and which part of them is sent.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue, header};

use crate::cache::coding;
use crate::cache::fill::Unread;
use crate::cache::flight::FlightReader;
use crate::cache::head::Head;
use crate::cache::object::{Content, DiskBody, FilePart, MOST_READ, Object};
use crate::cache::slices::SliceReader;
use crate::config::model::FieldChanges;
use crate::origin::error::OriginError;
use crate::origin::exchange::Exchange;
use crate::origin::forward;
use crate::representation::range::Span;

use super::coder::Coder;

pub(crate) struct Body {
    pub(super) pieces: Pieces,
    /// Bytes to leave out, then bytes to send.
    pub(super) skip: u64,
    pub(super) left: u64,
}

pub(super) enum Pieces {
    Whole(Option<Bytes>),
    /// Of a multipart body, with what goes between them.
    Parts(VecDeque<Bytes>),
    Flight(FlightReader),
    /// Of something that is stored, or was.
    Stored(Arc<Object>, Option<Bytes>),
    /// From a place on; what is to be left out before it need not be read.
    Disk(Arc<dyn DiskBody>, u64),
    /// Likewise.
    Slices(Box<SliceReader>, u64),
    /// As the origin sends it, at the client's pace.
    Passed(Passing),
    /// The same, coded.
    Coded(Box<(Passing, Coder)>),
}

/// The body of an origin's answer while it is read.
pub(super) struct Passing {
    /// `None`: it has ended, and the connection is given back.
    exchange: Option<Box<Exchange>>,
    /// Bytes that come at most.
    left: u64,
    trailers: Option<HeaderMap>,
}

impl Passing {
    pub(crate) fn new(exchange: Option<Box<Exchange>>) -> Self {
        Passing { exchange, left: u64::MAX, trailers: None }
    }

    pub(crate) fn of(unread: Unread) -> Self {
        Passing { left: unread.left, ..Passing::new(Some(unread.exchange)) }
    }

    /// The next piece. After it, [`Passing::end_with`] is to be called.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, OriginError>> {
        let Some(exchange) = &mut self.exchange else { return Poll::Ready(Ok(None)) };
        let piece = ready!(exchange.poll_body(cx))?;
        let length = piece.as_ref().map_or(0, Bytes::len) as u64;
        let Some(left) = self.left.checked_sub(length) else {
            let cause = "the body has more bytes than its head says".to_owned();
            return Poll::Ready(Err(OriginError::Broken { origin: exchange.origin.clone(), cause }));
        };
        self.left = left;
        Poll::Ready(Ok(piece))
    }

    /// The next piece of what a coder makes of it. What is there goes on when nothing more comes for now. After it,
    /// [`Passing::end_with`] is to be called.
    fn poll_coded(&mut self, coder: &mut Coder, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, OriginError>> {
        while !coder.has_ended() {
            let piece = self.poll_next(cx)?;
            let coded = match &piece {
                Poll::Ready(Some(piece)) => coder.take(piece),
                Poll::Ready(None) => coder.finish(),
                Poll::Pending => coder.flush(),
            };
            let coded = coded.map_err(|error| OriginError::broken(format!("it could not be compressed: {error}")))?;
            if coded.is_some() {
                return Poll::Ready(Ok(coded));
            }
            if piece.is_pending() {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(None))
    }

    /// Gives the connection back if all has been read, before the client has the last piece: its next request may come at
    /// once, and should find it.
    fn end_with(&mut self, piece: &Option<Bytes>) {
        if let Some(mut ended) = self.exchange.take_if(|exchange| piece.is_none() || exchange.is_over()) {
            self.trailers = ended.take_trailers();
            ended.release();
        }
    }
}

impl Pieces {
    pub(crate) fn of(content: &Content) -> Self {
        match content {
            Content::Memory(body) => Pieces::Whole(Some(body.clone())),
            Content::Disk(body) => Pieces::Disk(body.clone(), 0),
        }
    }

    fn passing(&self) -> Option<&Passing> {
        match self {
            Pieces::Passed(passing) => Some(passing),
            Pieces::Coded(coded) => Some(&coded.0),
            _ => None,
        }
    }

    fn passing_mut(&mut self) -> Option<&mut Passing> {
        match self {
            Pieces::Passed(passing) => Some(passing),
            Pieces::Coded(coded) => Some(&mut coded.0),
            _ => None,
        }
    }
}

/// How the next piece of a body comes to be in memory.
pub(crate) enum Coming {
    /// It is there, whoever reads it.
    AtHand,
    /// It is read when it is asked for, and takes so many bytes at most.
    Read(usize),
    /// As that, but it may be long in coming.
    Awaited,
}

/// What the head says of a body in several parts (RFC 9110 section 14.6).
pub(super) struct Multipart {
    pub content_type: HeaderValue,
    pub length: u64,
}

impl Body {
    /// The same, compressed by a coder, if it is passed on.
    pub(super) fn coded_by(self, coder: Coder) -> Self {
        match self.pieces {
            Pieces::Passed(passing) => Body { pieces: Pieces::Coded(Box::new((passing, coder))), ..self },
            pieces => Body { pieces, ..self },
        }
    }

    /// Whether it is passed on as it comes.
    pub(crate) fn is_passed(&self) -> bool {
        matches!(&self.pieces, Pieces::Passed(_))
    }

    /// The whole of what is to be sent, if it is there in one piece: the case of a memory hit.
    pub(crate) fn whole(&mut self) -> Option<Bytes> {
        let Pieces::Whole(body) = &mut self.pieces else { return None };
        let body = body.take().unwrap_or_default();
        Some(cut(body, &mut self.skip, &mut self.left))
    }

    /// A part of a file, if that is what comes next and may be sent as it is now. What was sent of it is to be
    /// [`Body::skip_sent`].
    pub(crate) fn file_part(&self) -> Option<FilePart> {
        let Pieces::Disk(body, at) = &self.pieces else { return None };
        body.part(*at + self.skip, self.left)
    }

    /// Goes on behind what was sent of a [`Body::file_part`].
    pub(crate) fn skip_sent(&mut self, sent: u64) {
        if let Pieces::Disk(_, at) = &mut self.pieces {
            *at += std::mem::take(&mut self.skip) + sent;
            self.left -= sent.min(self.left);
        }
    }

    pub(crate) fn coming(&self) -> Coming {
        match &self.pieces {
            // While it is there whoever reads it, it is counted by whoever keeps it.
            Pieces::Flight(reader) if !reader.flight().keeps_all() => Coming::Awaited,
            Pieces::Slices(reader, _) if reader.is_passed_on() => Coming::Awaited,
            Pieces::Whole(_) | Pieces::Parts(_) | Pieces::Stored(..) | Pieces::Flight(_) | Pieces::Slices(..) => {
                Coming::AtHand
            }
            // At its end there is nothing that would need room.
            Pieces::Disk(body, at) if self.left == 0 || *at + self.skip >= body.length() => Coming::AtHand,
            Pieces::Disk(..) => Coming::Read(MOST_READ),
            Pieces::Passed(..) | Pieces::Coded(..) => Coming::Awaited,
        }
    }

    /// Whether nothing is to come: the origin has said so with the head.
    pub(crate) fn is_over(&self) -> bool {
        matches!(&self.pieces, Pieces::Passed(Passing { exchange: None, .. }) | Pieces::Whole(None))
    }

    /// Whether some of the request is still to be sent.
    pub(crate) fn is_sending(&self) -> bool {
        self.pieces
            .passing()
            .and_then(|passing| passing.exchange.as_ref())
            .is_some_and(|exchange| exchange.is_sending())
    }

    /// Sends what is there of the request.
    pub(crate) fn send_on(&mut self, cx: &mut Context<'_>) {
        if let Some(exchange) = self.pieces.passing_mut().and_then(|passing| passing.exchange.as_mut()) {
            exchange.send_on(cx);
        }
    }

    /// The next piece of an origin's answer; while the request is still sent, too. After it, [`Body::have_read`] is to be called.
    pub(crate) fn poll_passed(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, OriginError>> {
        match &mut self.pieces {
            Pieces::Passed(passing) => passing.poll_next(cx),
            Pieces::Coded(coded) => coded.0.poll_coded(&mut coded.1, cx),
            _ => Poll::Ready(Ok(None)),
        }
    }

    /// A piece was read by itself.
    pub(crate) async fn have_read(&mut self, piece: &Option<Bytes>) {
        if let Some(passing) = self.pieces.passing_mut() {
            passing.end_with(piece);
        }
    }

    /// The trailers of a body that has been read to its end, as a route changes them.
    pub(crate) fn take_trailers(&mut self, changes: Option<&Arc<FieldChanges>>) -> Option<HeaderMap> {
        let mut trailers = self.pieces.passing_mut()?.trailers.take()?;
        forward::exclude_from_trailers(&mut trailers, changes);
        if matches!(self.pieces, Pieces::Coded(_)) {
            coding::exclude_digests(&mut trailers);
        }
        Some(trailers)
    }

    /// The next piece to be sent; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, OriginError> {
        while self.left > 0 {
            let piece = match &mut self.pieces {
                Pieces::Whole(body) | Pieces::Stored(_, body) => body.take(),
                Pieces::Parts(parts) => parts.pop_front(),
                Pieces::Flight(reader) => reader.next().await?,
                Pieces::Slices(reader, at) => {
                    *at += std::mem::take(&mut self.skip);
                    // Boxed: large, and few bodies are in slices.
                    Box::pin(reader.read(*at)).await?.inspect(|piece| *at += piece.len() as u64)
                }
                Pieces::Disk(body, at) => {
                    *at += std::mem::take(&mut self.skip);
                    match *at < body.length() {
                        true => Some(body.clone().read(*at).await.map_err(OriginError::stored_body_lost)?)
                            .inspect(|piece| *at += piece.len() as u64),
                        false => None,
                    }
                }
                Pieces::Passed(_) | Pieces::Coded(_) => {
                    let piece = poll_fn(|cx| self.poll_passed(cx)).await?;
                    self.have_read(&piece).await;
                    piece
                }
            };
            let Some(piece) = piece else { return Ok(None) };
            let piece = cut(piece, &mut self.skip, &mut self.left);
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }
}

/// The parts of a multipart body, as slices of the whole one with a head for each.
pub(super) fn multipart(parts: &[Span], total: u64, body: &Bytes, head: &Head) -> (VecDeque<Bytes>, Multipart) {
    let boundary = format!("{:032x}", fastrand::u128(..));
    let content_type = head.get(&header::CONTENT_TYPE);
    let mut pieces = VecDeque::with_capacity(parts.len() * 2 + 1);
    for Span { first, last } in parts {
        let mut between = format!("\r\n--{boundary}\r\n").into_bytes();
        if let Some(content_type) = content_type {
            between.extend_from_slice(b"Content-Type: ");
            between.extend_from_slice(content_type);
            between.extend_from_slice(b"\r\n");
        }
        between.extend_from_slice(format!("Content-Range: bytes {first}-{last}/{total}\r\n\r\n").as_bytes());
        pieces.push_back(between.into());
        pieces.push_back(body.slice(*first as usize..=*last as usize)); // within the body, which is in memory
    }
    pieces.push_back(format!("\r\n--{boundary}--\r\n").into());
    let length = pieces.iter().map(|piece| piece.len() as u64).sum();
    let content_type = format!("multipart/byteranges; boundary={boundary}");
    let content_type = HeaderValue::try_from(content_type).unwrap_or(HeaderValue::from_static("multipart/byteranges"));
    (pieces, Multipart { content_type, length })
}

/// The part of a piece that lies in the window.
fn cut(mut piece: Bytes, skip: &mut u64, left: &mut u64) -> Bytes {
    let skipped = piece.len().min(usize::try_from(*skip).unwrap_or(usize::MAX));
    piece.advance(skipped);
    *skip -= skipped as u64;
    piece.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
    *left -= piece.len() as u64;
    piece
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_cut_from_pieces_wherever_they_end() {
        let whole = b"0123456789";
        for size in 1..=10 {
            for first in 0..10_u64 {
                for last in first..10 {
                    let (mut skip, mut left) = (first, last - first + 1);
                    let pieces = whole.chunks(size).map(|piece| cut(Bytes::from_static(piece), &mut skip, &mut left));
                    let sent: Vec<u8> = pieces.flatten().collect();
                    assert_eq!(sent, &whole[first as usize..=last as usize], "{size} {first} {last}");
                }
            }
        }
    }
}

//! A response as both fronts write it: which head, how much of which body, and what is added to it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::cache::coding;
use crate::cache::engine::Source;
use crate::cache::fill::PrivateBody;
use crate::cache::flight::FlightHead;
use crate::cache::head::{Head, serialise};
use crate::cache::hold::Kept;
use crate::cache::object::{Content, Object};
use crate::cache::slices::Answer;
use crate::cache::status::Report;
use crate::cache::vary;
use crate::clock::Timestamp;
use crate::config::model::{Coding, FieldChanges};
use crate::fields::add_date;
use crate::origin::exchange::Exchange;
use crate::plan::{FIELDS_WITH_PLACES, WayBack};
use crate::representation::respond::{self, Reply};
use crate::request::{Fields, content_length, lists, may_have_body};

use super::body::{Body, Multipart, Passing, Pieces, multipart};
use super::coder::Coder;

/// A response to one request.
pub(crate) struct ClientResponse {
    head: HeadSource,
    pub reply: Reply,
    /// Of the whole body.
    length: Option<u64>,
    multipart: Option<Multipart>,
    pub age: Option<Duration>,
    /// The cache key, for who may see it.
    pub key: Option<String>,
    /// What is changed in its fields, where something is.
    changes: Option<Box<Changes>>,
    pub body: Body,
    /// Why there is nothing better, in an answer of the node's own; and more of it, or of an origin's, for the log alone.
    why: Option<&'static str>,
    cause: Option<String>,
}

enum HeadSource {
    Object(Arc<Object>),
    /// An object in one of its codings, by number.
    Coded(Arc<Object>, usize),
    Flight(Arc<FlightHead>),
    Own(Box<Head>),
}

/// What is changed in the fields of one response.
#[derive(Default)]
struct Changes {
    rules: Option<Arc<FieldChanges>>,
    /// What depends on the request.
    made: Vec<(HeaderName, HeaderValue)>,
    /// Fields that are others for the client than for the origin, as the client is to have them.
    mapped: HeaderMap,
    /// Whether the response is an error, which no rule gives a lifetime.
    is_error: bool,
}

/// Fields by which browsers and caches are told for how long they may keep a response.
const LIFETIMES: [HeaderName; 4] = [
    header::CACHE_CONTROL,
    header::EXPIRES,
    HeaderName::from_static("cdn-cache-control"),
    HeaderName::from_static("surrogate-control"),
];

/// What the log says of an answer that has just come, if the origin cannot serve.
fn outage(answer: &Answer) -> Option<String> {
    match answer {
        Answer::Whole(Source::Stream(reader)) => reader.head.outage.clone(),
        Answer::Whole(Source::Private(private)) => match &private.body {
            PrivateBody::Passed(unread) => unread.exchange.outage(),
            PrivateBody::Kept(_) | PrivateBody::Stored(_) => None,
        },
        Answer::Whole(Source::Stored(_) | Source::Part(_)) | Answer::Slices(_) => None,
    }
}

/// Whether a field lets a response be kept.
fn gives_lifetime(name: &HeaderName, value: &HeaderValue) -> bool {
    let forbids = |directive: &str| lists(value.as_bytes(), directive);
    LIFETIMES.contains(name) && !["no-store", "no-cache", "private"].into_iter().any(forbids)
}

impl Changes {
    fn is_dropped_by_rules(&self, name: &str) -> bool {
        self.rules.as_ref().is_some_and(|rules| rules.drops(name))
            && !(self.is_error && self.said().any(|(said, value)| said == name && gives_lifetime(said, value)))
    }

    /// What the rules set and add.
    fn said(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        let fixed = self.rules.iter().flat_map(|rules| &rules.fixed);
        fixed.chain(&self.made).map(|(name, value)| (name, value))
    }

    /// Whether a field is not sent as it is stored.
    fn drops(&self, name: &str) -> bool {
        // An empty map is asked for nothing: a name has to be parsed for that.
        self.is_dropped_by_rules(name) || !self.mapped.is_empty() && self.mapped.contains_key(name)
    }

    /// What is sent instead or beside; `has`: whether the response has a field.
    fn fields(&self, has: impl Fn(&HeaderName) -> bool) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        let mapped = self.mapped.iter().filter(move |(name, _)| has(name) && !self.is_dropped_by_rules(name.as_str()));
        mapped.chain(self.said().filter(|(name, value)| !(self.is_error && gives_lifetime(name, value))))
    }
}

/// Fields of the whole response that a 304 has too (RFC 9110 section 15.4.5).
const NOT_MODIFIED_FIELDS: [HeaderName; 8] = [
    header::CACHE_CONTROL,
    header::CONTENT_LOCATION,
    header::DATE,
    header::ETAG,
    header::EXPIRES,
    header::VARY,
    header::LAST_MODIFIED,
    // of an answer to this request alone
    header::SET_COOKIE,
];

/// Fields that tell of one body.
const OF_BODY: [HeaderName; 9] = [
    header::ACCEPT_RANGES,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_LENGTH,
    header::CONTENT_LOCATION,
    header::CONTENT_RANGE,
    header::ETAG,
    header::LAST_MODIFIED,
    header::TRAILER,
];

impl ClientResponse {
    /// All of a body, `length` bytes of it, with its head.
    fn full(head: HeadSource, length: Option<u64>, pieces: Pieces) -> Self {
        ClientResponse {
            head,
            reply: Reply::Full,
            length,
            multipart: None,
            age: None,
            key: None,
            changes: None,
            body: Body { pieces, skip: 0, left: u64::MAX },
            why: None,
            cause: None,
        }
    }

    /// An origin's response to this very request, conditions and ranges included: there is nothing to be decided. `exchange`:
    /// what its body is read from, if it has one.
    pub(crate) fn passed((status, fields, exchange): (StatusCode, HeaderMap, Option<Box<Exchange>>)) -> Self {
        let length = fields.get(header::CONTENT_LENGTH).and_then(|length| content_length(length.as_bytes()));
        let pieces = Pieces::Passed(Passing::new(exchange));
        Self::full(HeadSource::own(Head::passing(status, &fields)), length, pieces)
    }

    /// What the cache answers to a request.
    pub(crate) fn new(answer: Answer, method: &Method, request: Fields<'_>, now: Timestamp) -> Self {
        let cause = outage(&answer);
        // Of the first byte that is there; a part only gets requests that it answers.
        let mut offset = 0;
        let (head, length, age, pieces) = match answer {
            Answer::Whole(Source::Stored(object)) => {
                let age = Some(object.freshness.current_age(now));
                match coding::select(object.codings(), method, request) {
                    Some(number) => {
                        let body = object.codings()[number].body.clone();
                        let length = Some(body.len() as u64);
                        (HeadSource::Coded(object, number), length, age, Pieces::Whole(Some(body)))
                    }
                    None => {
                        let (length, pieces) = (Some(object.length()), Pieces::of(&object.content));
                        (HeadSource::Object(object), length, age, pieces)
                    }
                }
            }
            Answer::Whole(Source::Part(part)) => {
                let age = part.object.freshness.current_age(now);
                let pieces = Pieces::Whole(Some(part.body.clone()));
                offset = part.range.first;
                (HeadSource::Object(part.object.clone()), Some(part.range.total), Some(age), pieces)
            }
            Answer::Whole(Source::Stream(reader)) => {
                let age = reader.head.storable.freshness.current_age(now);
                let age = Some(age).filter(|age| age.as_secs() > 0);
                let head = if reader.leads && !reader.head.own.is_empty() {
                    HeadSource::own(reader.head.head.with(&reader.head.own))
                } else {
                    HeadSource::Flight(reader.head.clone())
                };
                (head, reader.head.length, age, Pieces::Flight(reader))
            }
            Answer::Slices(reader) => {
                let (age, length) = (reader.head.age(now), Some(reader.head.total()));
                let head = HeadSource::own(reader.head.head.clone());
                (head, length, Some(age).filter(|age| age.as_secs() > 0), Pieces::Slices(reader, 0))
            }
            Answer::Whole(Source::Private(private)) => {
                let head = HeadSource::own(private.head);
                let pieces = match private.body {
                    PrivateBody::Kept(reader) => Pieces::Flight(reader),
                    PrivateBody::Passed(unread) => Pieces::Passed(Passing::of(unread)),
                    PrivateBody::Stored(object) => match &object.content {
                        Content::Memory(body) => Pieces::Stored(object.clone(), Some(body.clone())),
                        Content::Disk(body) => Pieces::Disk(body.clone(), 0),
                    },
                };
                (head, private.length, None, pieces)
            }
        };
        let reply = respond::respond(method, request, &head.get().selected(length));
        ClientResponse { age, cause, ..Self::full(head, length, pieces) }.narrowed_to(reply, offset)
    }

    /// Of all of it what a reply has; its body begins `offset` bytes behind the start of the whole one.
    fn narrowed_to(mut self, reply: Reply, offset: u64) -> Self {
        let body = &mut self.body;
        match (&reply, &body.pieces) {
            (Reply::Full, _) => return self,
            (Reply::Multiple { parts, total }, Pieces::Whole(Some(whole))) => {
                let (pieces, multipart) = multipart(parts, *total, whole, self.head.get());
                (body.pieces, self.multipart) = (Pieces::Parts(pieces), Some(multipart));
            }
            // Parts in any order need the whole body; of a running fill all of it is given instead.
            (Reply::Multiple { .. }, _) => return self,
            (Reply::Partial { first, last, total }, pieces) => {
                if let Pieces::Flight(reader) = pieces
                    && last - first >= total / 2
                {
                    reader.flight().want(); // `bytes=0-`, as players ask
                }
                (body.skip, body.left) = (first.saturating_sub(offset), last - first + 1);
            }
            (Reply::NotModified | Reply::PreconditionFailed | Reply::RangeNotSatisfiable { .. }, _) => body.left = 0,
        }
        self.reply = reply;
        self
    }

    /// The same as an error, with what clients are told of it.
    pub(crate) fn explained(self, why: &'static str) -> Self {
        ClientResponse { why: Some(why), ..self }
    }

    /// The same, with what the log says of it.
    pub(crate) fn because(self, cause: impl Into<Option<String>>) -> Self {
        ClientResponse { cause: cause.into(), ..self }
    }

    /// What the log says of an answer of the node's own, or of one by which an origin cannot serve.
    pub(crate) fn take_cause(&mut self) -> Option<String> {
        self.cause.take().or_else(|| self.why.map(str::to_owned))
    }

    /// The same as a client of gRPC understands it: an answer of trailers only.
    pub(crate) fn in_grpc(self) -> Self {
        let Some(why) = self.why else { return self };
        let code = grpc_status(self.status());
        let mut fields = self.head().fields();
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        fields.insert("grpc-status", code.into());
        fields.insert("grpc-message", HeaderValue::from_static(why));
        let head = HeadSource::own(Head::private(StatusCode::OK, fields));
        let (why, cause, changes) = (self.why, self.cause, self.changes);
        ClientResponse { why, cause, changes, ..Self::full(head, None, Pieces::Whole(None)) }
    }

    /// A response of the node's own with a body of any type.
    pub(crate) fn own(status: StatusCode, content_type: HeaderValue, body: Bytes, now: Timestamp) -> Self {
        let mut fields = HeaderMap::new();
        add_date(&mut fields, now);
        fields.insert(header::CONTENT_TYPE, content_type);
        fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Self::of(status, fields, body)
    }

    /// The same with another body, whose like nothing is known of the first one's but what kind of answer it is.
    pub(crate) fn with_body(self, content_type: HeaderValue, body: Bytes) -> Self {
        let (status, mut fields) = (self.head().status, self.head().fields());
        for name in OF_BODY {
            fields.remove(name);
        }
        fields.insert(header::CONTENT_TYPE, content_type);
        let (key, changes, age) = (self.key, self.changes, self.age);
        ClientResponse { key, changes, age, ..Self::of(status, fields, body) }
    }

    /// The same with its fields changed for this client.
    pub(super) fn edited(mut self, edit: impl FnOnce(&mut HeaderMap)) -> Self {
        let (status, mut fields) = (self.head().status, self.head().fields());
        edit(&mut fields);
        self.head = HeadSource::own(Head::private(status, fields));
        self
    }

    /// The same with one field more.
    pub(crate) fn with_field(self, name: HeaderName, value: &str) -> Self {
        self.edited(|fields| fields.extend(HeaderValue::from_str(value).ok().map(|value| (name, value))))
    }

    /// The same, which another `Accept` would have changed.
    pub(crate) fn varying_by_accept(self) -> Self {
        self.edited(|fields| _ = fields.append(header::VARY, HeaderValue::from_static("Accept")))
    }

    /// The same, which another `Accept-Encoding` would have changed.
    pub(super) fn varying_by_coding(self) -> Self {
        self.edited(vary::add_coding)
    }

    /// The same in a coding, of which the length is not known; `coder`: for its body, if there is one.
    pub(super) fn coded(self, coding: Coding, coder: Option<Coder>) -> Self {
        let coded = self.edited(|fields| {
            vary::add_coding(fields);
            coding::name_coding(fields, coding);
        });
        let body = match coder {
            Some(coder) => coded.body.coded_by(coder),
            None => coded.body,
        };
        ClientResponse { length: None, body, ..coded }
    }

    /// A response of these fields.
    pub(crate) fn of(status: StatusCode, fields: HeaderMap, body: Bytes) -> Self {
        let head = HeadSource::own(Head::private(status, fields));
        Self::full(head, Some(body.len() as u64), Pieces::Whole(Some(body)))
    }

    /// The same with its fields changed; `made`: those that depend on the request.
    pub(crate) fn changed(mut self, rules: &Arc<FieldChanges>, made: Vec<(HeaderName, HeaderValue)>) -> Self {
        let is_error = self.status() >= StatusCode::BAD_REQUEST;
        let changes = self.changes.get_or_insert_default();
        (changes.rules, changes.made, changes.is_error) = (Some(rules.clone()), made, is_error);
        self
    }

    /// The same with the names of places that clients know.
    pub(crate) fn on_the_way_back(mut self, way_back: &WayBack<'_>) -> Self {
        let mut fields = HeaderMap::new();
        for (name, value) in self.head().lines() {
            let name = FIELDS_WITH_PLACES.iter().find(|field| **field == name);
            if let (Some(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
                fields.append(name, value);
            }
        }
        let mut mapped = fields.clone();
        way_back.map_all(&mut mapped);
        if mapped != fields {
            self.changes.get_or_insert_default().mapped = mapped;
        }
        self
    }

    /// The head as HTTP/1.1 has it, but for what each answer gets anew.
    pub(crate) fn head_bytes(&self) -> Bytes {
        match (&self.reply, &self.changes) {
            (Reply::Full, None) => self.head().h1_bytes(),
            (Reply::Full, Some(changes)) => {
                let h1 = self.head().h1();
                let mut out = Vec::with_capacity(h1.len() + 256);
                let mut kept = 0;
                // What stays is copied at once from one line that goes to the next.
                for (name, value) in self.head().lines().filter(|(name, _)| changes.drops(name)) {
                    let begin = name.as_ptr() as usize - h1.as_ptr() as usize; // it is a part of them
                    out.extend_from_slice(&h1[kept..begin]);
                    kept = begin + name.len() + b": ".len() + value.len() + b"\r\n".len();
                }
                out.extend_from_slice(&h1[kept..]);
                for (name, value) in changes.fields(|_| true) {
                    for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                        out.extend_from_slice(part);
                    }
                }
                out.into()
            }
            _ => serialise(self.status(), &self.selected_fields()),
        }
    }

    /// Calls `each` with the fields of the whole response, changed.
    fn each_line<'a>(&'a self, changes: &'a Changes, mut each: impl FnMut(&'a str, &'a [u8])) {
        let kept = self.head().lines().filter(|(name, _)| !changes.drops(name));
        kept.for_each(|(name, value)| each(name, value));
        changes.fields(|_| true).for_each(|(name, value)| each(name.as_str(), value.as_bytes()));
    }

    /// Calls `each` with every field, but for what each answer gets anew.
    pub(crate) fn for_each_field(&self, mut each: impl FnMut(&str, &[u8])) {
        match (&self.reply, &self.changes) {
            (Reply::Full, None) => self.head().lines().for_each(|(name, value)| each(name, value)),
            (Reply::Full, Some(changes)) => self.each_line(changes, each),
            _ => self.selected_fields().iter().for_each(|(name, value)| each(name.as_str(), value.as_bytes())),
        }
    }

    pub(crate) fn head(&self) -> &Head {
        self.head.get()
    }

    /// What is kept in memory for it while the client is waited for.
    pub(crate) fn kept(&self) -> Kept {
        match (&self.body.pieces, &self.head) {
            (Pieces::Flight(reader), _) => Kept::Flight(reader.flight().clone()),
            (Pieces::Slices(reader, _), _) => reader.kept(),
            (Pieces::Stored(object, _), _) => Kept::Object(object.clone()),
            (Pieces::Disk(..) | Pieces::Passed(..) | Pieces::Coded(..), _) => Kept::Pieces,
            (_, HeadSource::Object(object) | HeadSource::Coded(object, _)) => Kept::Object(object.clone()),
            _ => Kept::Nothing,
        }
    }

    /// Lets go of all that is kept for it, when its head is written down and no body is to come.
    pub(crate) fn forget(&mut self) {
        self.head = HeadSource::own(Head::private(StatusCode::OK, HeaderMap::new()));
        self.body.pieces = Pieces::Whole(None);
    }

    /// Lets go of a large head that nobody else has, when it has gone.
    pub(crate) fn forget_head(&mut self) {
        if let HeadSource::Own(head) = &mut self.head
            && head.is_large()
        {
            **head = Head::private(head.status, HeaderMap::new());
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        match self.reply {
            Reply::Full => self.head().status,
            Reply::NotModified => StatusCode::NOT_MODIFIED,
            Reply::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Reply::Partial { .. } | Reply::Multiple { .. } => StatusCode::PARTIAL_CONTENT,
            Reply::RangeNotSatisfiable { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
        }
    }

    /// Of the whole body, if it is known.
    pub(crate) fn length(&self) -> Option<u64> {
        self.length
    }

    /// The bytes that the body has, where that is known; `None` too where there is to be no such field.
    pub(crate) fn content_length(&self) -> Option<u64> {
        match self.reply {
            // RFC 9110 section 8.6: none in a 204; a 304 would have to state that of the 200.
            Reply::Full if self.head().status == StatusCode::NO_CONTENT => None,
            Reply::Full => self.length,
            Reply::NotModified => None,
            Reply::Multiple { .. } => self.multipart.as_ref().map(|multipart| multipart.length),
            Reply::Partial { first, last, .. } => Some(last - first + 1),
            Reply::PreconditionFailed | Reply::RangeNotSatisfiable { .. } => Some(0),
        }
    }

    /// Appends the value of `Cache-Status`.
    pub(crate) fn write_cache_status(&self, out: &mut String, report: &Report, node: &str) {
        report.write(out, node);
        if let Some(key) = &self.key {
            // A string of structured fields (RFC 9211 section 2.7): visible ASCII, quotes and backslashes escaped.
            out.push_str("; key=\"");
            for character in key.chars() {
                match character {
                    '"' | '\\' => out.extend(['\\', character]),
                    ' '..='~' => out.push(character),
                    _ => out.push(' '),
                }
            }
            out.push('"');
        }
    }

    pub(crate) fn content_range(&self) -> Option<String> {
        match self.reply {
            Reply::Partial { first, last, total } => Some(format!("bytes {first}-{last}/{total}")),
            Reply::RangeNotSatisfiable { total } => Some(format!("bytes */{total}")),
            _ => None,
        }
    }

    /// The trailers of a body that has been read to its end.
    pub(crate) fn take_trailers(&mut self) -> Option<HeaderMap> {
        let changes = self.changes.as_ref().and_then(|changes| changes.rules.as_ref());
        self.body.take_trailers(changes)
    }

    /// Whether this status and method have a body at all (RFC 9112 section 6.3).
    pub(crate) fn has_body(&self, method: &Method) -> bool {
        may_have_body(method, self.status())
    }

    /// All of the body that is sent, if it is there in one piece; of a response that has none, nothing.
    pub(crate) fn take_whole(&mut self, method: &Method) -> Option<Bytes> {
        if self.has_body(method) { self.body.whole() } else { Some(Bytes::new()) }
    }

    /// The fields to send where they are not those of the whole response.
    fn selected_fields(&self) -> HeaderMap {
        let fields = self.unchanged_fields();
        let Some(changes) = &self.changes else { return fields };
        // That of several parts tells where each begins.
        let is_ours = |name: &HeaderName| self.multipart.is_some() && *name == header::CONTENT_TYPE;
        let kept = fields.iter().filter(|(name, _)| is_ours(name) || !changes.drops(name.as_str()));
        let own = changes.fields(|name| fields.contains_key(name)).filter(|(name, _)| !is_ours(name));
        let mut changed = HeaderMap::new();
        kept.chain(own).for_each(|(name, value)| _ = changed.append(name, value.clone()));
        changed
    }

    fn unchanged_fields(&self) -> HeaderMap {
        let kept: &[HeaderName] = match self.reply {
            Reply::Full | Reply::Partial { .. } | Reply::Multiple { .. } => {
                let mut fields = self.head().fields();
                if !matches!(self.reply, Reply::Full) {
                    fields.remove(header::CONTENT_RANGE); // of a whole response it means nothing; this has its own
                }
                if let Some(multipart) = &self.multipart {
                    fields.insert(header::CONTENT_TYPE, multipart.content_type.clone());
                }
                return fields;
            }
            Reply::NotModified => &NOT_MODIFIED_FIELDS,
            Reply::PreconditionFailed | Reply::RangeNotSatisfiable { .. } => &[header::DATE],
        };
        let mut fields = HeaderMap::new();
        let all = self.head().fields();
        for name in kept {
            for value in all.get_all(name) {
                fields.append(name.clone(), value.clone());
            }
        }
        fields
    }
}

/// The status of gRPC for one of HTTP (the protocol's `http-grpc-status-mapping`, and what it leaves out).
fn grpc_status(status: StatusCode) -> u16 {
    match status {
        StatusCode::BAD_REQUEST => 13,                                 // INTERNAL
        StatusCode::UNAUTHORIZED => 16,                                // UNAUTHENTICATED
        StatusCode::FORBIDDEN => 7,                                    // PERMISSION_DENIED
        StatusCode::NOT_FOUND => 12,                                   // UNIMPLEMENTED
        StatusCode::PAYLOAD_TOO_LARGE => 8,                            // RESOURCE_EXHAUSTED
        StatusCode::REQUEST_TIMEOUT => 1,                              // CANCELLED
        StatusCode::TOO_MANY_REQUESTS | StatusCode::BAD_GATEWAY => 14, // UNAVAILABLE
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => 14,
        _ => 2, // UNKNOWN
    }
}

impl HeadSource {
    fn own(head: Head) -> Self {
        HeadSource::Own(Box::new(head))
    }

    fn get(&self) -> &Head {
        match self {
            HeadSource::Object(object) => &object.head,
            HeadSource::Coded(object, number) => &object.codings()[*number].head,
            HeadSource::Flight(flight) => &flight.head,
            HeadSource::Own(head) => head,
        }
    }
}

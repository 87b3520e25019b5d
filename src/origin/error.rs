//! What goes wrong with an origin: how far a request got, whose doing it was, and what the client is told.

use std::fmt::Write;
use std::sync::Arc;

use http::StatusCode;
use pingora_core::{BError, Error, ErrorType};
use rustix::io::Errno;

use crate::running::TooManyRequests;

use super::link::LinkError;
use super::upload::BodyError;

/// Words of [`OriginError::reason`] by which it is told that no origin was to blame.
pub(crate) const TOO_MANY_FILLS: &str = "too-many-fills";
pub(crate) const TOO_MANY_REQUESTS: &str = "too-many-requests";

/// Why an exchange with an origin failed, in the terms in which the client is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// Nor one of its fallbacks.
    #[error("no origin of pool {pool} can serve")]
    NoOrigin { pool: Arc<str> },
    #[error("too many fills are running; see max_fills in [limits]")]
    TooManyFills,
    /// The origins that are up have as many requests as they may.
    #[error("all origins of pool {pool} are busy, and {why}; see its max_requests and queue")]
    Busy { pool: Arc<str>, why: &'static str },
    #[error("as many requests of the site are with its origins as may be; see its max_requests")]
    TooManyRequests,
    #[error("cannot connect to origin {origin}: {cause}")]
    Connect { origin: Arc<str>, cause: String },
    /// It cannot be told from somebody else's.
    #[error("the certificate of origin {origin} is not valid: {cause}; see its pool's ca and sni")]
    Certificate { origin: Arc<str>, cause: String },
    #[error("origin {origin} did not answer in time: {cause}")]
    Timeout { origin: Arc<str>, cause: String },
    #[error("origin {origin} broke off: {cause}")]
    Broken { origin: Arc<str>, cause: String },
    #[error("origin {origin} sent what is not valid HTTP: {cause}")]
    Invalid { origin: Arc<str>, cause: String },
    #[error("a fault of the node's own ended the fill")]
    FillLost,
    #[error("the origin gives no slices of it that could be put together")]
    NotInSlices,
    /// No origin's doing.
    #[error("{0}")]
    Request(#[from] BodyError),
}

impl From<TooManyRequests> for OriginError {
    fn from(_: TooManyRequests) -> Self {
        OriginError::TooManyRequests
    }
}

impl OriginError {
    /// A response broke off, and which origin it came from is not known here.
    pub(crate) fn broken(cause: impl Into<String>) -> Self {
        OriginError::Broken { origin: "".into(), cause: cause.into() }
    }

    /// Sorts an error of an exchange.
    pub fn from_link(error: &LinkError, origin: &Arc<str>) -> Self {
        let (origin, cause) = (origin.clone(), error.to_string());
        match error {
            LinkError::Timeout(_) => OriginError::Timeout { origin, cause },
            LinkError::Invalid(_) => OriginError::Invalid { origin, cause },
            LinkError::Io(_)
            | LinkError::Closed
            | LinkError::Reset(_)
            | LinkError::Unprocessed(_)
            | LinkError::Refused(_)
            | LinkError::NeedsHttp11 => OriginError::Broken { origin, cause },
        }
    }

    /// Sorts an error of pingora's.
    pub fn from_pingora(error: &Error, origin: &Arc<str>, connecting: bool) -> Self {
        let origin = origin.clone();
        if let Some(cause) = certificate_fault(error) {
            return OriginError::Certificate { origin, cause: cause.to_owned() };
        }
        let cause = describe(error);
        match error.etype() {
            ErrorType::ReadTimedout | ErrorType::WriteTimedout => OriginError::Timeout { origin, cause },
            ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => OriginError::Timeout { origin, cause },
            ErrorType::InvalidHTTPHeader | ErrorType::H2Error | ErrorType::InvalidH2 => {
                OriginError::Invalid { origin, cause }
            }
            _ if connecting => OriginError::Connect { origin, cause },
            _ => OriginError::Broken { origin, cause },
        }
    }

    /// What the client is answered: 502, 503 or 504 (RFC 9110 section 15.6).
    pub fn status(&self) -> StatusCode {
        match self {
            OriginError::NoOrigin { .. }
            | OriginError::Busy { .. }
            | OriginError::TooManyFills
            | OriginError::TooManyRequests => StatusCode::SERVICE_UNAVAILABLE,
            OriginError::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            OriginError::Request(error) => error.status(),
            _ => StatusCode::BAD_GATEWAY,
        }
    }

    /// Whether an origin may have got the request.
    pub fn may_have_been_sent(&self) -> bool {
        !matches!(
            self,
            OriginError::TooManyFills
                | OriginError::TooManyRequests
                | OriginError::Busy { .. }
                | OriginError::NoOrigin { .. }
                | OriginError::Connect { .. }
                | OriginError::Certificate { .. }
        )
    }

    /// The same, after so many tries.
    pub(super) fn after(mut self, tries: usize) -> Self {
        if let OriginError::Connect { cause, .. }
        | OriginError::Certificate { cause, .. }
        | OriginError::Timeout { cause, .. }
        | OriginError::Broken { cause, .. }
        | OriginError::Invalid { cause, .. } = &mut self
            && tries > 1
        {
            _ = write!(cause, "; {tries} tries were made"); // writing to a String cannot fail
        }
        self
    }

    /// One word for `Cache-Status`, logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            OriginError::NoOrigin { .. } => "no-origin",
            OriginError::Busy { .. } => "busy",
            OriginError::TooManyFills => TOO_MANY_FILLS,
            OriginError::TooManyRequests => TOO_MANY_REQUESTS,
            OriginError::Connect { .. } => "connect",
            OriginError::Certificate { .. } => "certificate",
            OriginError::Timeout { .. } => "timeout",
            OriginError::Broken { .. } => "broken",
            OriginError::Invalid { .. } => "invalid",
            OriginError::FillLost => "fill-lost",
            OriginError::NotInSlices => "not-in-slices",
            OriginError::Request(_) => "request-body",
        }
    }
}

/// Why an attempt brought no response.
#[derive(Debug)]
pub(crate) struct Failure {
    pub error: OriginError,
    pub kind: FailureKind,
}

/// How far an attempt got before it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// There was no connection, so nothing was sent.
    Connecting,
    /// There was none either, but for want of something on this host: it says nothing of the origin.
    Ours,
    /// The origin may simply have closed a connection that lay idle: nobody has seen anything of the request.
    DeadConnection,
    /// The origin says that it has not processed the request.
    Unprocessed,
    /// The same, of one request of many on a connection.
    Refused,
    NeedsHttp11,
    /// Nothing came in time.
    TimedOut,
    /// Something else happened before there was a head.
    Broken,
    /// The request came to no end.
    Client,
}

impl Failure {
    /// There is no connection, as pingora says.
    pub(crate) fn of_connecting(error: &Error, origin: &Arc<str>) -> Self {
        Failure { error: OriginError::from_pingora(error, origin, true), kind: kind_of(error.root_cause()) }
    }

    /// There is no connection, as the system says.
    pub(crate) fn of_socket(error: &std::io::Error, origin: &Arc<str>) -> Self {
        let kind = kind_of(error);
        Failure { error: OriginError::Connect { origin: origin.clone(), cause: error.to_string() }, kind }
    }
}

fn kind_of(error: &(dyn std::error::Error + 'static)) -> FailureKind {
    if is_our_own_fault(error) { FailureKind::Ours } else { FailureKind::Connecting }
}

/// How rustls begins what it says of a certificate; pingora hands on nothing but its words.
const INVALID_CERTIFICATE: &str = "invalid peer certificate: ";

/// What is wrong with an origin's certificate, if that is why there is no connection.
pub(super) fn certificate_fault(error: &Error) -> Option<&str> {
    let (_, fault) = error.context.as_ref()?.as_str().split_once(INVALID_CERTIFICATE)?;
    Some(fault.rsplit_once(", SNI: ").map_or(fault, |(fault, _)| fault))
}

/// An error of which [`certificate_fault`] says why it is one.
pub(super) fn invalid_certificate(fault: &str) -> BError {
    Error::explain(ErrorType::InvalidCert, format!("{INVALID_CERTIFICATE}{fault}"))
}

/// An error of pingora's in a few words. What the system says of it needs no other: our own connections have the same.
pub(crate) fn describe(error: &Error) -> String {
    let system = error.root_cause().downcast_ref::<std::io::Error>();
    if let Some(system) = system.filter(|system| system.raw_os_error().is_some()) {
        return system.to_string();
    }
    if let Some(fault) = certificate_fault(error) {
        return format!("its certificate is not valid: {fault}");
    }
    let said = error.to_string();
    if said.contains("InvalidContentType") {
        return "it does not speak TLS".to_owned();
    }
    match error.etype() {
        ErrorType::ConnectRefused => return "Connection refused".to_owned(),
        ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => return "no connection in time".to_owned(),
        _ => {}
    }
    let kind = error.etype().as_str();
    match (&error.context, &error.cause) {
        (Some(context), _) => format!("{kind}: {}", context.as_str()),
        (None, Some(cause)) => format!("{kind}: {cause}"),
        (None, None) => kind.to_owned(),
    }
}

/// Whether a connection was not made for want of something here: ports, descriptors, memory. What it was is at the end of
/// the causes.
pub(crate) fn is_our_own_fault(error: &(dyn std::error::Error + 'static)) -> bool {
    let wants = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    std::iter::successors(Some(error), |error| error.source())
        .filter_map(|error| error.downcast_ref::<std::io::Error>()?.raw_os_error())
        .any(|code| wants.iter().any(|want| want.raw_os_error() == code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanting_here_is_nothing_of_the_origins() {
        let io = |errno: Errno| std::io::Error::from_raw_os_error(errno.raw_os_error());
        for (errno, ours) in
            [(Errno::MFILE, true), (Errno::NFILE, true), (Errno::ADDRNOTAVAIL, true), (Errno::CONNREFUSED, false)]
        {
            let inner = Error::because(ErrorType::SocketError, "failed to create socket", io(errno));
            let wrapped = Error::because(ErrorType::InternalError, "Fail to connect", inner);
            assert_eq!(is_our_own_fault(wrapped.root_cause()), ours, "{errno:?}");
            let plain = Error::because(ErrorType::ConnectError, "c", io(errno));
            assert_eq!(is_our_own_fault(plain.root_cause()), ours, "{errno:?}");
        }
    }
}

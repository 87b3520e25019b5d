//! A session of pingora's that goes back to it however it ends. pingora keeps a connection by HTTP/2 in use until each of its
//! streams was given back, for ever if one is not.

use std::sync::Arc;
use std::time::Duration;

use pingora_core::connectors::http::v2;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::protocols::http::v2::client::Http2Session;
use pingora_core::upstreams::peer::HttpPeer;

/// What may be a stream of a connection by HTTP/2.
pub(super) trait Session {
    fn into_h2(self) -> Option<Http2Session>;
}

impl Session for Http2Session {
    fn into_h2(self) -> Option<Http2Session> {
        Some(self)
    }
}

impl Session for HttpSession {
    fn into_h2(self) -> Option<Http2Session> {
        match self {
            HttpSession::H2(session) => Some(session),
            HttpSession::H1(_) | HttpSession::Custom(_) => None,
        }
    }
}

/// A session for as long as it is in use.
pub(super) struct Lease<S: Session> {
    /// There until it is taken out or dropped.
    session: Option<S>,
    /// How the connection is known to pingora.
    peer: HttpPeer,
    connector: Arc<v2::Connector>,
    /// How long the connection is kept if nobody uses it after this.
    idle: Duration,
}

impl<S: Session> Lease<S> {
    pub(super) fn new(session: S, peer: HttpPeer, connector: Arc<v2::Connector>, idle: Duration) -> Self {
        Lease { session: Some(session), peer, connector, idle }
    }

    pub(super) fn get(&self) -> Option<&S> {
        self.session.as_ref()
    }

    pub(super) fn get_mut(&mut self) -> Option<&mut S> {
        self.session.as_mut()
    }

    /// Has the connection closed as soon as nobody uses it any more.
    pub(super) fn closing(mut self) -> Self {
        self.idle = Duration::from_millis(1);
        self
    }
}

impl Lease<HttpSession> {
    /// The same of a stream by HTTP/2; or the session, whatever else it is.
    pub(super) fn into_h2(mut self) -> Result<Lease<Http2Session>, Option<Box<HttpSession>>> {
        match self.session.take() {
            Some(HttpSession::H2(session)) => {
                Ok(Lease::new(session, self.peer.clone(), self.connector.clone(), self.idle))
            }
            other => Err(other.map(Box::new)),
        }
    }
}

impl<S: Session> Drop for Lease<S> {
    fn drop(&mut self) {
        let session = self.session.take().and_then(Session::into_h2);
        // pingora looks after idle connections by a task: at the very end nobody does, nor has to.
        if let Some(session) = session.filter(|_| tokio::runtime::Handle::try_current().is_ok()) {
            self.connector.release_http_session(session, &self.peer, Some(self.idle));
        }
    }
}

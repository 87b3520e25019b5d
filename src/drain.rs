//! How a node ends: told first, then without new connections, then without what is still running.

/// How far the end has come. Later stages are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Serving,
    /// Clients are told not to come back by the same connection; whatever comes is still served.
    Leaving,
    /// No connection is accepted any more, and one that has nothing to do ends.
    Draining,
}

//! The listeners that are served: opened at the start and by reloads, changed, and closed when a configuration has them no
//! more.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::config::model::{ListenAddress, Listener};
use crate::drain::Stage;
use crate::request::ListenerId;
use crate::snapshot::OpenListeners;
use crate::systemd::{Handed, ServiceManager, Sockets};

use super::bind::Listening;
use super::listen::{Loop, Way, serve};
use super::open::Open;
use super::serve::Shared;

/// Why clients cannot connect at an address.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}{purpose}: {source}{}", Hint(.address, .source))]
pub(crate) struct ListenError {
    address: ListenAddress,
    purpose: &'static str,
    source: io::Error,
}

impl ListenError {
    /// `purpose`: what for, unless it is for clients.
    pub(crate) fn of(address: &ListenAddress, purpose: &'static str) -> impl FnOnce(io::Error) -> Self {
        let address = address.clone();
        move |source| ListenError { address, purpose, source }
    }
}

/// What to do about it.
struct Hint<'a>(&'a ListenAddress, &'a io::Error);

impl fmt::Display for Hint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use io::ErrorKind::{AddrInUse, AddrNotAvailable, AlreadyExists, NotFound, PermissionDenied};
        let hint = match (self.0, self.1.kind()) {
            (ListenAddress::Ip(_), AddrInUse) => "see who has it with ss -ltnp, or take another port",
            (ListenAddress::Ip(_), AddrNotAvailable) => "no interface of this machine has this address",
            (ListenAddress::Ip(_), PermissionDenied) => "ports below 1024 need CAP_NET_BIND_SERVICE",
            (ListenAddress::Unix(_), AddrInUse) => "see who has it with ss -lxp, or take another path",
            (ListenAddress::Unix(_), AlreadyExists) => "remove the file, or take another path",
            (ListenAddress::Unix(_), NotFound) => "its directory must be there: RuntimeDirectory= of a service",
            (ListenAddress::Unix(_), PermissionDenied) => "the node's user must own the directory",
            _ => return Ok(()),
        };
        write!(f, "\n  = hint: {hint}")
    }
}

/// A listener whose socket is open, and that is not yet served.
pub(crate) struct Opened {
    id: ListenerId,
    socket: Arc<Listening>,
}

/// Opens what listens: takes the sockets that were handed over, and binds the others.
pub(crate) fn open(
    listeners: &OpenListeners,
    sockets: &mut Sockets,
    manager: &ServiceManager,
) -> Result<Vec<Opened>, ListenError> {
    let mut opened = Vec::new();
    for (id, listener) in listeners.iter() {
        let Some(Handed { socket, is_ours, file, .. }) = sockets.find(&listener.address) else { continue };
        match Listening::adopt(&listener.address, listener.mode, socket, file) {
            Ok(socket) => opened.push(Opened { id, socket: socket.into() }),
            // Nobody can connect to it: its file has gone, or is another program's now.
            Err(error) if is_ours => {
                tracing::warn!(address = %listener.address, %error, "a socket that was kept is of no use, and is opened anew");
                manager.let_go(&listener.address, file);
            }
            Err(error) => return Err(ListenError::of(&listener.address, "")(error)),
        }
    }
    // They may be in the way of what is bound next.
    for address in sockets.close_rest(manager) {
        Listening::clean_up(&address);
    }
    let taken: Vec<ListenerId> = opened.iter().map(|opened| opened.id).collect();
    let missing = listeners.iter().filter(|(id, _)| !taken.contains(id));
    let bound: Result<Vec<_>, _> = missing.map(|(id, listener)| bind(id, listener)).collect();
    opened.append(&mut bound?);
    Ok(opened)
}

fn bind(id: ListenerId, listener: &Listener) -> Result<Opened, ListenError> {
    let socket = Listening::open(&listener.address, listener.mode).map_err(ListenError::of(&listener.address, ""))?;
    Ok(Opened { id, socket: socket.into() })
}

/// Those of the node.
pub(crate) struct Listeners {
    node: Loop,
    manager: ServiceManager,
    /// `None` from when they were closed for good: nothing is opened any more.
    served: Mutex<Option<HashMap<ListenerId, Served>>>,
}

/// One that is served.
struct Served {
    listener: Listener,
    socket: Arc<Listening>,
    way: Arc<ArcSwap<Way>>,
    /// Dropped, it ends.
    end: oneshot::Sender<()>,
    accepting: JoinHandle<()>,
}

/// What a configuration changes, ready to be done.
#[derive(Default)]
pub(crate) struct Change {
    new: Vec<(Opened, Listener, Way)>,
    changed: Vec<(ListenerId, Listener, Way)>,
}

impl Listeners {
    pub(crate) fn new(shared: Arc<Shared>, open: Open, stage: watch::Receiver<Stage>, manager: ServiceManager) -> Self {
        let served = Mutex::new(Some(HashMap::new()));
        Listeners { node: Loop { shared, open, stage }, manager, served }
    }

    /// Gets ready what is not served as the configuration has it. Nothing is changed by it, but that sockets are open.
    /// `opened`: those that are already.
    pub(crate) fn prepare(&self, listeners: &OpenListeners, opened: Vec<Opened>) -> Result<Change, ListenError> {
        let served = self.served.lock();
        let Some(served) = &*served else { return Ok(Change::default()) };
        let mut opened: HashMap<ListenerId, Opened> = opened.into_iter().map(|opened| (opened.id, opened)).collect();
        let (mut new, mut changed) = (Vec::new(), Vec::new());
        for (id, listener) in listeners.iter() {
            let way = |socket: &Listening| {
                let way = Way::of(id, listener, socket, &self.node.shared);
                way.map_err(ListenError::of(&listener.address, ""))
            };
            match served.get(&id) {
                Some(served) if served.listener == *listener => {}
                Some(served) => changed.push((id, listener.clone(), way(&served.socket)?)),
                None => {
                    let opened = opened.remove(&id).map_or_else(|| bind(id, listener), Ok)?;
                    let way = way(&opened.socket)?;
                    new.push((opened, listener.clone(), way));
                }
            }
        }
        Ok(Change { new, changed })
    }

    /// Does it, and closes what the configuration has no more. Connections that are open stay as they are.
    pub(crate) fn change(&self, Change { new, changed }: Change, listeners: &OpenListeners) {
        let mut served = self.served.lock();
        let Some(served) = &mut *served else { return };
        let (stay, gone) = served.drain().partition(|(id, _)| listeners.get(*id).is_some());
        *served = stay;
        gone.into_values().for_each(|gone| self.close(gone));
        for (id, listener, way) in changed {
            let Some(served) = served.get_mut(&id) else { continue };
            if let Err(error) = served.socket.set_mode(listener.mode) {
                tracing::warn!(address = %listener.address, %error, "cannot change who may connect");
            }
            served.listener = listener;
            served.way.store(Arc::new(way));
        }
        served.extend(new.into_iter().map(|(opened, listener, way)| (opened.id, self.serve(opened, listener, way))));
    }

    fn serve(&self, Opened { socket, .. }: Opened, listener: Listener, way: Way) -> Served {
        // A port that the system chose is not asked for again.
        if listener.address.port() != Some(0) {
            socket.set_kept(self.manager.keep(&listener.address, socket.file(), socket.as_fd()));
        }
        if let Ok(address) = socket.address() {
            tracing::info!(%address, "listening");
        }
        let way = Arc::new(ArcSwap::from_pointee(way));
        let (end, ended) = oneshot::channel();
        let accepting = tokio::spawn(serve(socket.clone(), way.clone(), self.node.clone(), ended));
        Served { listener, socket, way, end, accepting }
    }

    fn close(&self, gone: Served) {
        let address = &gone.listener.address;
        tracing::info!(%address, "no longer listening; connections that are open go on");
        self.manager.let_go(address, gone.socket.file());
        gone.socket.set_kept(false);
        drop(gone.end);
    }

    /// Waits until none accepts, which begins with [`Stage::Draining`]; then their sockets are closed here, and no others opened.
    pub(crate) async fn closed(&self) {
        let served = self.served.lock().take();
        for served in served.into_iter().flat_map(HashMap::into_values) {
            let _ = served.accepting.await; // it ends without a result, or has failed badly, which is told
        }
    }

    /// Where clients may connect.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let served = self.served.lock();
        let mut all: Vec<_> = served.iter().flatten().map(|(id, served)| (id.0, served.socket.address())).collect();
        all.sort_by_key(|(id, _)| *id);
        all.into_iter().filter_map(|(_, address)| Some(address.ok()?.to_string())).collect()
    }
}

//! The disk tier: one file a response, spread over one or more directories, found by its key alone.
//!
//! [`mod@format`] is what is in a file, [`catalogue`] what is known of all, [`volume`] one directory with its threads, [`find`]
//! and [`spool`] read and write there, [`warden`] looks after it, [`scan`] is how it is taken into use. A failing disk never
//! fails a request: whatever is the matter is a [`Trouble`], and the request goes to the origin.

mod admission;
mod body;
mod buffers;
mod catalogue;
mod dry_run;
mod file;
mod filter;
mod find;
pub(crate) mod format;
mod health;
mod id;
mod index;
mod journal;
mod loads;
mod page_cache;
mod places;
mod pool;
mod restore;
mod running;
mod saved_index;
mod scan;
mod spool;
mod sweep;
mod trust;
mod view;
mod volume;
mod warden;
mod write_buffer;

use std::hash::Hash;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::cache::object::Object;
use crate::cache::purge::{CHANGE_PATIENCE, Purges};
use crate::cache::trouble::Trouble;
use crate::cache::vary::Presented;
use crate::config::model::{Admission, CacheDisk, DiskDirectory, WriteWhen};
use crate::plan::CacheKey;

use admission::Seen;
use find::Found;
use id::{FileId, KeyHash};
use journal::{Doom, Journal};
use loads::Loads;
use places::Places;
use view::DiskView;
use volume::{Shared, Volume};

pub(crate) use dry_run::WouldHit;
pub(crate) use spool::Spool;
pub(crate) use write_buffer::{WriteBuffer, WriteRoom};

/// How long a directory that leaves may take to write what waits to be written.
const WRITE_OUT: Duration = Duration::from_secs(30);
/// Files that are removed for good before a directory is left, at most.
const MAX_REMOVED_AT_END: usize = 10_000;
/// How long saving an index and syncing its disk may take at the end.
const SAVE_PATIENCE: Duration = Duration::from_secs(10);

/// All directories together.
pub struct DiskTier {
    volumes: ArcSwap<Vec<Arc<Volume>>>,
    settings: ArcSwap<CacheDisk>,
    shared: Shared,
    /// Directories that were used once and are not now.
    absent: ArcSwap<Vec<PathBuf>>,
    seen: Seen,
    loads: Loads<KeyHash, Loaded<SmallVec<[Found; 1]>>>,
    /// Of several variants the one that is wanted: by volume and file.
    bodies: Loads<(usize, FileId), Loaded<Option<Arc<Object>>>>,
    /// Held while a purge is tried out.
    dry_run: Mutex<()>,
    /// Counts removals: what was read before one may be what was removed.
    removals: AtomicU64,
}

/// What was found under a key, or what was read of it.
#[derive(Clone)]
pub struct Loaded<T> {
    pub found: T,
    /// The removals there had been when the reading began.
    removals: u64,
}

impl DiskTier {
    pub fn start(config: &CacheDisk, purges: &Arc<Purges>) -> Self {
        let (journal, is_whole) = Journal::open(purges.directory());
        let places = Arc::new(Places::open(purges.directory()));
        if !is_whole {
            tracing::error!(
                "the journal of the disk cache is damaged; nothing that is in the disk cache is used any more"
            );
            let configured = config.directories.iter().map(|directory| directory.path.clone());
            places.roots().into_iter().chain(configured).for_each(|root| _ = journal.note(&root, [Doom::All]));
        }
        let tier = DiskTier {
            volumes: ArcSwap::default(),
            settings: ArcSwap::from_pointee(CacheDisk { directories: Vec::new(), ..config.clone() }),
            absent: ArcSwap::from_pointee(places.roots()),
            shared: Shared { purges: purges.clone(), journal, places },
            seen: Seen::new(),
            loads: Loads::default(),
            bodies: Loads::default(),
            dry_run: Mutex::new(()),
            removals: AtomicU64::new(0),
        };
        tier.configure(config);
        tier
    }

    /// Takes directories into and out of use, and changes the limits of those that stay.
    pub fn configure(&self, config: &CacheDisk) {
        let before = self.volumes.load_full();
        let volume_for = |directory: &DiskDirectory| match before.iter().find(|volume| volume.root == directory.path) {
            Some(volume) => {
                volume.configure(directory);
                volume.clone()
            }
            None => {
                let volume = Arc::new(Volume::new(directory, config, self.shared.clone()));
                warden::start(&volume);
                volume
            }
        };
        let after: Vec<Arc<Volume>> = config.directories.iter().map(volume_for).collect();
        let is_used = |root: &PathBuf| after.iter().any(|volume| volume.root == *root);
        let leaving: Vec<&Arc<Volume>> = before.iter().filter(|volume| !is_used(&volume.root)).collect();
        let roots = leaving.iter().map(|volume| volume.root.clone());
        let absent: Vec<PathBuf> = self.absent.load().iter().cloned().chain(roots).collect();
        // From here on it may be doubted as absent, which it does not heed any more.
        let noted = self.shared.journal.newest();
        leaving.iter().for_each(|volume| volume.heed_no_later(noted));
        // What comes is absent until it is in use: whatever is made out of date meanwhile is noted.
        self.absent.store(Arc::new(absent.clone()));
        for volume in leaving {
            volume.close();
            let volume = volume.clone();
            let thread = std::thread::Builder::new().name("disk-leave".into());
            if let Err(error) = thread.spawn(move || stop(&volume, WRITE_OUT)) {
                tracing::warn!(%error, "a directory that is no longer used is not left in order");
            }
        }
        self.volumes.store(Arc::new(after.clone()));
        after.iter().filter(|volume| absent.contains(&volume.root)).for_each(|volume| volume.heed_journal());
        self.absent.store(Arc::new(absent.into_iter().filter(|root| !is_used(root)).collect()));
        self.settings.store(Arc::new(config.clone()));
    }

    /// Whether what is stored is written at once, rather than when it leaves memory.
    pub fn writes_at_once(&self) -> bool {
        self.settings.load().write == WriteWhen::AtOnce
    }

    /// Whether there may be something under a key.
    pub fn may_have(&self, key: &str) -> bool {
        let volumes = self.volumes.load();
        if volumes.is_empty() {
            return false;
        }
        let key = KeyHash::of(key);
        volumes.iter().any(|volume| volume.may_find(key))
    }

    /// The newest object that a request selects under a key, with its body or where to read that. Those who ask for the same
    /// at one time have it read once. `max_in_memory`: larger bodies are not wanted whole.
    pub async fn find(
        &self,
        key: &str,
        request: Presented<'_>,
        max_in_memory: u64,
    ) -> Result<Option<Loaded<Arc<Object>>>, Trouble> {
        let hash = KeyHash::of(key);
        let load = || self.load(hash, key, max_in_memory);
        let Loaded { found, removals } = self.once(&self.loads, hash, self.removals(), load).await?;
        let selected = found.iter().filter(|found| found.variant().matches(request));
        let found = match selected.max_by_key(|found| found.response_time()) {
            None => None,
            Some(Found::Object(object)) => Some(object.clone()),
            // Only now is the body read: of all variants that of the one that is asked for.
            Some(Found::Head(head)) => {
                let file = (Arc::as_ptr(&head.volume).addr(), head.id);
                let read = || head.volume.whole(head.id, key, max_in_memory);
                let read = self.once(&self.bodies, file, removals, read).await?.found;
                read.filter(|object| object.variant.matches(request)) // another may have taken its place
            }
        };
        Ok(found.map(|found| Loaded { found, removals }))
    }

    /// Whether nothing was removed since it was read.
    pub fn is_current<T>(&self, loaded: &Loaded<T>) -> bool {
        self.removals() == loaded.removals
    }

    /// Reads what is not being read already. `removals`: if the reading began before so many, it is not joined, since what is
    /// read may be what was removed.
    async fn once<K: Copy + Eq + Hash, T: Clone, F: Future<Output = Result<T, Trouble>>>(
        &self,
        loads: &Loads<K, Loaded<T>>,
        key: K,
        removals: u64,
        read: impl Fn() -> F,
    ) -> Result<Loaded<T>, Trouble> {
        let load = || async {
            let removals = self.removals();
            Ok(Loaded { found: read().await?, removals })
        };
        let loaded = loads.once(key, &load).await?;
        if loaded.removals < removals { load().await } else { Ok(loaded) }
    }

    async fn load(&self, hash: KeyHash, key: &str, max_in_memory: u64) -> Result<SmallVec<[Found; 1]>, Trouble> {
        let (mut all, mut trouble) = (SmallVec::new(), None);
        // A disk that was away, or could not be written, may have older versions: whoever asks takes the newest.
        for volume in self.volumes.load_full().iter().filter(|volume| volume.may_find(hash)) {
            match volume.find(hash, key, max_in_memory).await {
                Ok(found) => all.extend(found),
                Err(other) => trouble = Some(other),
            }
        }
        match trouble {
            Some(trouble) if all.is_empty() => Err(trouble),
            _ => Ok(all),
        }
    }

    /// Has an object written. What there was of it before is out of date either way.
    pub fn store(&self, object: &Arc<Object>, max_variants: usize) {
        let volumes = self.volumes.load();
        if volumes.is_empty() {
            return;
        }
        let id = FileId::of(object);
        if object.content.in_memory().is_none() {
            // Its body is there already, wherever that is by today's rules.
            return volumes
                .iter()
                .filter(|volume| volume.files.may_have(id.key))
                .for_each(|volume| volume.rewrite(object.clone()));
        }
        let wanted = object.length() <= self.settings.load().max_object.0 && self.is_admitted(id.key);
        let chosen = choose(&volumes, id.key).filter(|_| wanted);
        let is_chosen = |volume: &Arc<Volume>| chosen.is_some_and(|chosen| Arc::ptr_eq(chosen, volume));
        let others = volumes.iter().filter(|volume| !is_chosen(volume) && volume.files.may_have(id.key));
        others.for_each(|volume| volume.files.remove(id));
        if let Some(volume) = chosen {
            volume.store(object.clone(), max_variants);
        }
    }

    /// Whether what is stored under a key gets onto disk.
    fn is_admitted(&self, key: KeyHash) -> bool {
        self.settings.load().admission == Admission::Always || self.seen.before(key)
    }

    fn note_removal(&self) {
        self.removals.fetch_add(1, Ordering::AcqRel);
    }

    pub fn removals(&self) -> u64 {
        self.removals.load(Ordering::Acquire)
    }

    /// The largest body that is stored; 0 if nothing is.
    pub fn max_object(&self) -> u64 {
        let most = self.volumes.load().iter().map(|volume| volume.most_for_spools()).max();
        most.unwrap_or(0).min(self.settings.load().max_object.0)
    }

    /// Whether there is a directory at all.
    pub fn is_in_use(&self) -> bool {
        !self.volumes.load().is_empty()
    }

    /// How long anything waits for a disk.
    pub fn patience(&self) -> Duration {
        self.settings.load().read_timeout
    }

    /// What keeps an object from being written now.
    pub fn obstacle(&self, key: &CacheKey) -> Option<Trouble> {
        let volumes = self.volumes.load();
        choose(&volumes, KeyHash::of(key.as_str())).map_or(Some(Trouble::OutOfService), |volume| volume.obstacle())
    }

    /// Takes a body in as it comes, `length` bytes if that is known. `head`: the object, as yet without it. `None`: it is not to
    /// be stored, or there is no room for it.
    pub fn spool(&self, head: &Object, length: Option<u64>) -> Option<Spool> {
        let volumes = self.volumes.load();
        let key = KeyHash::of(head.key().as_str());
        let volume = choose(&volumes, key)?;
        if let Some(obstacle) = volume.obstacle() {
            volume.count(obstacle);
            return None;
        }
        if volume.is_opening() {
            return None;
        }
        let others = volumes.iter().filter(|other| !Arc::ptr_eq(other, volume)).cloned().collect();
        self.is_admitted(key).then(|| Spool::begin(volume, others, head, length)).flatten()
    }

    /// Takes one object out, also of what is there after a restart, once the number that it gives is [`DiskTier::kept`].
    pub fn remove(&self, object: &Object) -> u64 {
        let volumes = self.volumes.load();
        self.note_removal();
        let id = FileId::of(object);
        let taken_out = volumes.iter().filter(|volume| volume.files.take_out(id));
        let noted = taken_out.map(|volume| self.shared.journal.note(&volume.root, [Doom::File(id)])).max();
        noted.unwrap_or(0).max(self.doubt_absent())
    }

    /// Takes all variants of a key out, likewise.
    pub fn remove_key(&self, key: &str) -> u64 {
        let volumes = self.volumes.load();
        self.note_removal();
        if volumes.is_empty() {
            return self.doubt_absent();
        }
        let key = KeyHash::of(key);
        let noted = volumes.iter().map(|volume| match volume.files.remove_key(key) {
            dooms if dooms.is_empty() => 0,
            dooms => self.shared.journal.note(&volume.root, dooms),
        });
        noted.max().unwrap_or(0).max(self.doubt_absent())
    }

    /// Waits until what was taken out is so for good. `false`: it is out of use, but a restart may bring it back.
    pub async fn kept(&self, number: u64) -> bool {
        self.shared.journal.kept(number, CHANGE_PATIENCE).await
    }

    /// Of what is in directories that are not used now, nothing is known: something is made out of date, and so it may
    /// be that.
    fn doubt_absent(&self) -> u64 {
        self.absent.load().iter().map(|root| self.shared.journal.note(root, [Doom::All])).max().unwrap_or(0)
    }

    /// Writes what waits to be written and ends all threads. Takes at most `patience`, and what saving an index may take: call
    /// it where blocking is allowed. A disk that hangs is left to itself.
    pub fn stop(&self, patience: Duration) {
        let volumes = self.volumes.swap(Arc::default());
        let (done, ended) = std::sync::mpsc::channel();
        // All at one time: systemd does not wait for one after the other.
        let mut left: Vec<_> = volumes.iter().map(|volume| volume.root.clone()).collect();
        for volume in volumes.iter().cloned() {
            let done = done.clone();
            let work = move || {
                stop(&volume, patience);
                let _ = done.send(volume.root.clone()); // it may have taken too long
            };
            if let Err(error) = std::thread::Builder::new().name("disk-stop".into()).spawn(work) {
                tracing::warn!(%error, "a disk of the cache is not stopped orderly; the next start scans it");
            }
        }
        drop(done);
        let deadline = Instant::now() + patience + SAVE_PATIENCE;
        while let Ok(root) = ended.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            left.retain(|other| *other != root);
        }
        for path in left {
            tracing::warn!(path = %path.display(), "the disk hangs: it is left as it is, and the next start scans it");
        }
        self.shared.journal.close(patience);
    }

    /// Waits until it is known which directories these are, for a while: until then they answer nothing.
    pub async fn opened(&self, patience: Duration) {
        let opening = async {
            while self.volumes.load().iter().any(|volume| volume.is_opening()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let _ = tokio::time::timeout(patience, opening).await; // it may come later
    }

    /// Whether it is still to be found out what is on some of them.
    pub fn is_scanning(&self) -> bool {
        self.volumes.load().iter().any(|volume| volume.is_scanning())
    }

    pub fn views(&self) -> Vec<DiskView> {
        self.volumes.load().iter().map(|volume| DiskView::of(volume)).collect()
    }
}

fn stop(volume: &Volume, patience: Duration) {
    volume.close();
    let path = volume.root.display();
    if !volume.pool.settle(patience) {
        tracing::warn!(%path, "not all that was to be written to the disk cache was");
    } else {
        if let Err(error) = volume.save() {
            tracing::warn!(%path, %error, "the index of the disk cache could not be saved; the next start scans it");
        }
        // Else there are too many to be removed now; the next start goes by the journal.
        if volume.files.lock().doomed.len() <= MAX_REMOVED_AT_END {
            volume.settle_journal();
        }
    }
    volume.end();
}

/// The volume for a key, of those that can be written: the same for as long as they are the same, in proportion to their
/// sizes, and with as few keys as possible that change places when one comes or goes (weighted rendezvous hashing).
fn choose(volumes: &[Arc<Volume>], key: KeyHash) -> Option<&Arc<Volume>> {
    let score = |volume: &Volume| {
        let unit = key.with(&volume.root);
        -(volume.max_size() as f64) / unit.ln()
    };
    let usable = volumes.iter().filter(|volume| volume.health.obstacle(health::Operation::Write).is_none());
    usable.max_by(|one, other| score(one).total_cmp(&score(other)))
}

//! Finding what is stored: heads first, then the body of the one that is asked for.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use smallvec::{SmallVec, smallvec};

use crate::cache::object::Object;
use crate::cache::trouble::Trouble;
use crate::cache::vary::Variant;
use crate::clock::Timestamp;

use super::body::FileBody;
use super::file::{self, Patience, ReadError, Record, RecordBody};
use super::format::{BLOCK, Corrupt, Meta};
use super::health::Operation;
use super::id::{FileId, KeyHash};
use super::index::Entry;
use super::restore;
use super::scan;
use super::volume::Volume;

/// Bodies up to this are read whole, if they may get into memory; larger ones are streamed.
const MAX_WHOLE: u64 = 1 << 20;
/// Those up to this in any case: there is no more than one piece of them.
const ALWAYS_WHOLE: u64 = BLOCK;

/// What was found.
#[derive(Clone)]
pub(super) enum Found {
    /// The only one of its key.
    Object(Arc<Object>),
    /// One of several, of which only the head was read: most of them are not what is asked for.
    Head(Arc<FoundHead>),
}

/// One of several variants.
pub(super) struct FoundHead {
    pub volume: Arc<Volume>,
    pub id: FileId,
    variant: Variant,
    response_time: Timestamp,
}

/// A file, and what the index has of it.
type Known = (FileId, Option<Entry>);

impl Found {
    pub(super) fn variant(&self) -> &Variant {
        match self {
            Found::Object(object) => &object.variant,
            Found::Head(head) => &head.variant,
        }
    }

    pub(super) fn response_time(&self) -> Timestamp {
        match self {
            Found::Object(object) => object.freshness.response_time,
            Found::Head(head) => head.response_time,
        }
    }
}

impl Volume {
    /// Reads what there is of a key: of several variants the heads, of a single one all, as far as bodies are read whole.
    pub(super) async fn find(
        self: &Arc<Self>,
        key: KeyHash,
        name: &str,
        max_in_memory: u64,
    ) -> Result<SmallVec<[Found; 1]>, Trouble> {
        if let Some(trouble) = self.health.obstacle(Operation::Read) {
            return Err(self.count(trouble));
        }
        match *self.files_of(key).await? {
            [] => Ok(SmallVec::new()),
            [only] => Ok(self.whole(only, name, max_in_memory).await?.into_iter().map(Found::Object).collect()),
            ref ids => self.heads(ids, name).await,
        }
    }

    async fn files_of(self: &Arc<Self>, key: KeyHash) -> Result<SmallVec<[FileId; 2]>, Trouble> {
        let may_have_others = {
            let files = self.files.lock();
            let known = files.index.variants(key);
            if !known.is_empty() {
                return Ok(known.iter().map(|entry| entry.id).collect());
            }
            !self.files.scan.is_done() && !files.is_forgotten(key)
        };
        if !may_have_others {
            return Ok(SmallVec::new());
        }
        let volume = self.clone();
        let there = self.in_pool(move || scan::names_of(&volume.root, key), self.read_timeout).await?;
        let files = self.files.lock();
        Ok(there.into_iter().filter(|id| !files.doomed.contains(id)).collect())
    }

    /// Reads one file; `None`: it is not there.
    pub(super) async fn whole(
        self: &Arc<Self>,
        id: FileId,
        name: &str,
        max_in_memory: u64,
    ) -> Result<Option<Arc<Object>>, Trouble> {
        let whole_up_to = max_in_memory.clamp(ALWAYS_WHOLE, MAX_WHOLE);
        let Some((file, read)) = self.read(&[id], name, whole_up_to).await?.pop() else { return Ok(None) };
        let object = self.unless_missing(file, read)?;
        if let Some(object) = &object {
            let mut files = self.files.lock();
            files.index.touch(id);
            // What is known of the file that was there before and is known of that which is there now holds for what was
            // read, whichever of them that was.
            if let Some((before, now)) = file.1.zip(files.index.get(id)) {
                object.survived(before.seq.min(now.seq), None);
            }
            drop(files);
            self.counters.hits.fetch_add(1, Ordering::Relaxed);
        }
        Ok(object.map(Arc::new))
    }

    /// Reads the heads of several variants.
    async fn heads(self: &Arc<Self>, ids: &[FileId], name: &str) -> Result<SmallVec<[Found; 1]>, Trouble> {
        let (mut found, mut trouble) = (SmallVec::new(), None);
        for (file, head) in self.read(ids, name, 0).await? {
            match self.unless_missing(file, head) {
                Ok(object) => found.extend(object.map(|Object { variant, freshness, .. }| {
                    let (volume, response_time) = (self.clone(), freshness.response_time);
                    Found::Head(Arc::new(FoundHead { volume, id: file.0, variant, response_time }))
                })),
                Err(other) => trouble = Some(other),
            }
        }
        match trouble {
            Some(trouble) if found.is_empty() => Err(trouble),
            _ => Ok(found),
        }
    }

    /// Reads files: at once what the page cache has of them, the others in a thread that may wait for the disk.
    async fn read(
        self: &Arc<Self>,
        ids: &[FileId],
        name: &str,
        whole_up_to: u64,
    ) -> Result<SmallVec<[(Known, Result<Object, ReadError>); 1]>, Trouble> {
        let known: SmallVec<[Known; 1]> = {
            let files = self.files.lock();
            ids.iter().map(|id| (*id, files.index.get(*id))).collect()
        };
        let (mut read, mut slow) = (smallvec![], Vec::new());
        for file in known {
            match self.read_now(file, name, whole_up_to, Patience::PageCache) {
                Err(error) if error.needs_disk() => slow.push(file),
                object => read.push((file, object)),
            }
        }
        if slow.is_empty() {
            return Ok(read);
        }
        let (volume, name) = (self.clone(), name.to_owned());
        let read_one = move |file: Known| {
            let _stripe = volume.stripe(file.0); // nobody changes it meanwhile
            let read = match volume.read_now(file, &name, whole_up_to, Patience::Path) {
                Err(error) if error.needs_disk() => {
                    // More comes into memory than is looked at.
                    volume.files.lock().index.disprove(file.0);
                    volume.read_now(file, &name, whole_up_to, Patience::Disk)
                }
                read => read, // though the kernel cannot say whether it would wait for the path
            };
            (file, read)
        };
        let read_all = move || slow.into_iter().map(read_one).collect::<Vec<_>>();
        let from_disk = self.in_pool(read_all, self.read_timeout).await?;
        if from_disk.iter().any(|(_, object)| object.is_ok()) {
            self.health.success(Operation::Read);
        }
        read.extend(from_disk);
        Ok(read)
    }

    /// What came of reading a file; `None`: it is not there.
    fn unless_missing(&self, (id, known): Known, read: Result<Object, ReadError>) -> Result<Option<Object>, Trouble> {
        match read {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_missing() => {
                let mut files = self.files.lock();
                // Unless another took its place while this one was read.
                if files.index.get(id).map(|now| now.seq) == known.map(|before| before.seq) {
                    files.index.remove(id);
                }
                Ok(None)
            }
            Err(error) => Err(self.unreadable(id, &error)),
        }
    }

    fn read_now(
        self: &Arc<Self>,
        (id, known): Known,
        name: &str,
        whole_up_to: u64,
        patience: Patience,
    ) -> Result<Object, ReadError> {
        let trust = self.files.before.trust(known.as_ref());
        let Record { header, meta, body } = file::read(&id.path(&self.root), trust, whole_up_to, patience)?;
        let meta = Meta::decode(&meta)?;
        if meta.key != name {
            return Err(Corrupt::Key.into());
        }
        let content = match body {
            RecordBody::Whole(body) => body.into(),
            RecordBody::Open(file) => FileBody::new(self.clone(), id, Arc::new(file), header).into(),
        };
        let object = restore::object(&header, &meta, content)?;
        object.survived(self.files.before.survived(), None);
        Ok(object)
    }
}

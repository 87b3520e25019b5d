//! Finding what is stored: heads first, then the body of the one that is asked for.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use smallvec::SmallVec;

use crate::cache::object::Object;
use crate::cache::purge::PurgeSeq;
use crate::cache::trouble::Trouble;
use crate::cache::vary::Variant;
use crate::clock::Timestamp;

use super::super::body::FileBody;
use super::super::file::{self, Patience, ReadError, Record, RecordBody};
use super::super::format::{BLOCK, Corrupt, Meta};
use super::super::health::Operation;
use super::super::id::{FileId, KeyHash};
use super::super::index::Entry;
use super::super::restore;
use super::super::scan;
use super::Volume;

/// Bodies up to this are read whole, if they may get into memory; larger ones are streamed.
pub const READ_WHOLE: u64 = 1 << 20;
/// Those up to this in any case: there is no more than one piece of them.
const ALWAYS_WHOLE: u64 = BLOCK;

/// What was found.
#[derive(Clone)]
pub enum Found {
    /// The only one of its key.
    Object(Arc<Object>),
    /// One of several, of which only the head was read: most of them are not what is asked for.
    Head(Arc<FoundHead>),
}

/// One of several variants.
pub struct FoundHead {
    pub volume: Arc<Volume>,
    pub id: FileId,
    variant: Variant,
    response_time: Timestamp,
}

impl Found {
    pub fn variant(&self) -> &Variant {
        match self {
            Found::Object(object) => &object.variant,
            Found::Head(head) => &head.variant,
        }
    }

    pub fn response_time(&self) -> Timestamp {
        match self {
            Found::Object(object) => object.freshness.response_time,
            Found::Head(head) => head.response_time,
        }
    }
}
impl Volume {
    /// Reads what there is of a key: of several variants the heads, of a single one all, as far as bodies are read whole.
    pub async fn find(
        self: &Arc<Self>,
        key: KeyHash,
        name: &str,
        max_in_memory: u64,
    ) -> Result<SmallVec<[Found; 1]>, Trouble> {
        if self.is_opening() {
            return Ok(SmallVec::new());
        }
        if let Some(trouble) = self.health.obstacle(Operation::Read) {
            return Err(self.count(trouble));
        }
        let mut ids: SmallVec<[FileId; 2]> =
            self.files.lock().index.variants(key).iter().map(|entry| entry.id).collect();
        if ids.is_empty() && !self.scan.is_done() && !self.scan.is_forgotten(key) {
            let volume = self.clone();
            let names = self.in_pool(move || scan::names_of(&volume.root, key), self.terms.read_timeout).await?;
            let files = self.files.lock();
            ids = names.into_iter().filter(|id| !files.doomed.contains(id)).collect();
        }
        match (ids.len(), ids.first().copied()) {
            (_, None) => Ok(SmallVec::new()),
            (1, Some(only)) => {
                let object = self.whole(only, name, max_in_memory).await?;
                Ok(object.into_iter().map(Found::Object).collect())
            }
            _ => self.heads(&ids, name).await,
        }
    }

    /// Reads one file; `None`: it is not there.
    pub async fn whole(
        self: &Arc<Self>,
        id: FileId,
        name: &str,
        max_in_memory: u64,
    ) -> Result<Option<Arc<Object>>, Trouble> {
        let whole_up_to = max_in_memory.clamp(ALWAYS_WHOLE, READ_WHOLE);
        let known = self.files.lock().index.get(id);
        let quick = self.read_now((id, known), name, whole_up_to, Patience::PageCache);
        let read = match quick {
            Err(error) if error.needs_disk() => {
                self.files.lock().index.disprove(id); // more comes into memory than is looked at
                let (volume, name) = (self.clone(), name.to_owned());
                let read = move || {
                    let _stripe = volume.stripe(id); // nobody changes it meanwhile
                    volume.read_now((id, known), &name, whole_up_to, Patience::Disk)
                };
                let read = self.in_pool(read, self.terms.read_timeout).await?;
                if read.is_ok() {
                    self.health.success(Operation::Read);
                }
                read
            }
            read => read,
        };
        let object = self.unless_missing(id, known, read)?;
        if let Some(object) = &object {
            let mut files = self.files.lock();
            files.index.touch(id);
            // What is known of the file that was there before and is known of that which is there now holds for what was
            // read, whichever of them that was.
            if let Some((before, now)) = known.zip(files.index.get(id)) {
                object.survived(before.seq.min(now.seq), None);
            }
            drop(files);
            self.counters.hits.fetch_add(1, Ordering::Relaxed);
        }
        Ok(object.map(Arc::new))
    }

    /// Reads the heads of several variants.
    async fn heads(self: &Arc<Self>, ids: &[FileId], name: &str) -> Result<SmallVec<[Found; 1]>, Trouble> {
        let known: Vec<(FileId, Option<Entry>)> = {
            let files = self.files.lock();
            ids.iter().map(|id| (*id, files.index.get(*id))).collect()
        };
        let (mut heads, mut slow) = (Vec::new(), Vec::new());
        for file in known {
            match self.read_now(file, name, 0, Patience::PageCache) {
                Err(error) if error.needs_disk() => slow.push(file),
                head => heads.push((file, head)),
            }
        }
        if !slow.is_empty() {
            {
                let mut files = self.files.lock();
                slow.iter().for_each(|(id, _)| files.index.disprove(*id)); // as above
            }
            let (volume, name) = (self.clone(), name.to_owned());
            let read = move |file: (FileId, Option<Entry>)| {
                let _stripe = volume.stripe(file.0);
                (file, volume.read_now(file, &name, 0, Patience::Disk))
            };
            let read_all = move || slow.into_iter().map(read).collect::<Vec<_>>();
            heads.extend(self.in_pool(read_all, self.terms.read_timeout).await?);
        }
        let (mut found, mut trouble) = (SmallVec::new(), None);
        for ((id, known), head) in heads {
            match self.unless_missing(id, known, head) {
                Ok(object) => found.extend(object.map(|object| self.found_head(id, &object))),
                Err(other) => trouble = Some(other),
            }
        }
        match trouble {
            Some(trouble) if found.is_empty() => Err(trouble),
            _ => Ok(found),
        }
    }

    fn found_head(self: &Arc<Self>, id: FileId, object: &Object) -> Found {
        let (variant, response_time) = (object.variant.clone(), object.freshness.response_time);
        Found::Head(Arc::new(FoundHead { volume: self.clone(), id, variant, response_time }))
    }

    /// What came of reading a file of which this was known; `None`: it is not there.
    fn unless_missing(
        &self,
        id: FileId,
        known: Option<Entry>,
        read: Result<Object, ReadError>,
    ) -> Result<Option<Object>, Trouble> {
        match read {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_missing() => {
                let mut files = self.files.lock();
                // Unless another took its place while this one was read.
                if files.index.get(id).map(|now| now.seq) == known.map(|before| before.seq) {
                    files.index.remove(id);
                }
                drop(files);
                self.counters.misses.fetch_add(1, Ordering::Relaxed);
                Ok(None)
            }
            Err(error) => Err(self.unreadable(id, &error)),
        }
    }

    /// `known`: what the index has of the file.
    fn read_now(
        self: &Arc<Self>,
        (id, known): (FileId, Option<Entry>),
        name: &str,
        whole_up_to: u64,
        patience: Patience,
    ) -> Result<Object, ReadError> {
        let trust = self.trust(known.as_ref());
        let Record { header, meta, body } = file::read(&id.path(&self.root), trust, whole_up_to, patience)?;
        let meta = Meta::decode(&meta)?;
        if meta.key != name {
            return Err(Corrupt::Key.into());
        }
        let content = match body {
            RecordBody::Whole(body) => body.into(),
            RecordBody::Open(file) => FileBody::new(self.clone(), id, file, header).into(),
        };
        let object = restore::object(&header, &meta, content)?;
        object.survived(PurgeSeq(self.before.survived.load(Ordering::Acquire)), None);
        Ok(object)
    }
}

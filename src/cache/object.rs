//! One stored response, with everything ready that a hit needs: its head as it is sent, its body in one piece, or where to
//! read it.

use std::fs::File;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::config::model::Coding;
use crate::plan::Key;

use super::coding::{self, Coded};
use super::freshness::Freshness;
use super::head::Head;
use super::policy::Storable;
use super::purge::{Identity, PurgeSeq, Purges, Standing};
use super::tags::Tags;
use super::trouble::Trouble;
use super::vary::Variant;
use crate::representation::range::ContentRange;

/// A stored response. Immutable but for what purges have found it to be and what the compressor adds; what refreshes it
/// makes a new one around the same body.
pub struct Object {
    /// Behind the key.
    pub head: Head,
    pub content: Content,
    /// `None`: it does not vary by coding, and so is not coded.
    coding: Option<Box<Codings>>,
    pub freshness: Freshness,
    pub variant: Variant,
    /// `None`: it has none.
    tags: Option<Box<Tags>>,
    part: Option<Box<ContentRange>>,
    /// See [`Object::checked`].
    checked: AtomicU64,
    /// When a soft purge declared it stale: seconds since 1970, or [`NEVER`].
    soft_purged: AtomicU32,
    /// How often it was asked for, roughly: see [`Object::used`].
    uses: AtomicU32,
}

/// What the compressor makes of a body.
#[derive(Default)]
struct Codings {
    /// Whether it was given to the compressor; one for all objects with this body.
    begun: Arc<AtomicBool>,
    done: OnceLock<Box<[Coded]>>,
}

/// Of so many uses of an object one is counted.
const SAMPLE: u32 = 8;

/// Where the body is.
#[derive(Clone)]
pub enum Content {
    Memory(Bytes),
    Disk(Arc<dyn DiskBody>),
}

/// Bytes of a body that are read from a disk at once.
pub(crate) const MOST_READ: usize = 128 << 10;

/// A body that is read from a disk as it is needed.
pub trait DiskBody: Send + Sync {
    /// Of the whole, in bytes.
    fn length(&self) -> u64;

    /// Device and number of the file: what it is, whatever has its name now.
    fn inode(&self) -> (u64, u64);

    /// Some bytes from a place on as they lie in the file, at most so many, if they may be sent as they are: they have been
    /// found undamaged, and have been in memory ever since.
    fn part(&self, from: u64, most: u64) -> Option<FilePart>;

    /// Some bytes from a place before the end on, at least one and at most [`MOST_READ`]. They are what was stored: damage
    /// is an error.
    fn read(self: Arc<Self>, from: u64) -> Pin<Box<dyn Future<Output = Result<Bytes, Trouble>> + Send>>;
}

/// A part of a file.
#[derive(Debug)]
pub struct FilePart {
    pub file: Arc<File>,
    pub at: u64,
    pub length: u64,
}

impl Content {
    /// The body, if it is on disk alone.
    pub fn on_disk(&self) -> Option<&Arc<dyn DiskBody>> {
        match self {
            Content::Memory(_) => None,
            Content::Disk(body) => Some(body),
        }
    }

    /// The body, if it is in memory.
    pub fn in_memory(&self) -> Option<&Bytes> {
        match self {
            Content::Memory(body) => Some(body),
            Content::Disk(_) => None,
        }
    }

    fn length(&self) -> u64 {
        match self {
            Content::Memory(body) => body.len() as u64,
            Content::Disk(body) => body.length(),
        }
    }
}

impl From<Bytes> for Content {
    fn from(body: Bytes) -> Self {
        Content::Memory(body)
    }
}

const NEVER: u32 = u32::MAX;

impl Object {
    /// `purge_seq` is the purge sequence in force when its fill began.
    pub fn new(key: Key<'_>, head: Head, content: impl Into<Content>, storable: Storable, purge_seq: PurgeSeq) -> Self {
        Object {
            coding: head.varies_by_coding().then(Box::default),
            head: head.under(key),
            content: content.into(),
            freshness: storable.freshness,
            variant: storable.variant,
            tags: Some(storable.tags).filter(|tags| !tags.is_empty()).map(Box::new),
            part: storable.part.map(Box::new),
            checked: AtomicU64::new(purge_seq.0),
            soft_purged: AtomicU32::new(NEVER),
            uses: AtomicU32::new(0),
        }
    }

    /// The same with another body, subject to all purges after `checked` and after its own.
    pub fn with_body(&self, body: Bytes, checked: PurgeSeq) -> Self {
        let storable = Storable { part: None, ..self.storable() };
        Object::new(self.key(), self.head.clone(), body, storable, self.checked().min(checked))
    }

    /// How it is stored.
    pub fn storable(&self) -> Storable {
        Storable {
            freshness: self.freshness,
            variant: self.variant.clone(),
            tags: self.tags().clone(),
            part: self.part(),
            excluded: Vec::new(),
        }
    }

    pub fn key(&self) -> Key<'_> {
        Key::of_written(std::str::from_utf8(self.head.key()).unwrap_or_default()) // it was one
    }

    /// Whether it has this key.
    pub fn has_key(&self, key: &str) -> bool {
        self.head.key() == key.as_bytes()
    }

    pub fn tags(&self) -> &Tags {
        self.tags.as_deref().unwrap_or(Tags::none())
    }

    /// Which part of the whole the body is, if it is one.
    pub fn part(&self) -> Option<ContentRange> {
        self.part.as_deref().copied()
    }

    /// The same in content codings, in the order of the node's preference.
    pub fn codings(&self) -> &[Coded] {
        self.coding.as_ref().and_then(|coding| coding.done.get()).map_or(&[], |codings| codings)
    }

    /// Adds the body in content codings, once; to what varies by them.
    pub fn set_codings(&self, codings: impl IntoIterator<Item = (Coding, Bytes)>) {
        let coded = |(coding, body)| Coded { coding, head: coding::head_of(&self.head, coding), body };
        if let Some(coding) = &self.coding {
            let _ = coding.done.set(codings.into_iter().map(coded).collect()); // a second time changes nothing
        }
    }

    /// Takes the place of another object of the same response: goes on counting where that was, and takes over what was or is
    /// being made of the same body.
    pub fn succeed(&mut self, before: &Object) {
        *self.uses.get_mut() = before.uses();
        let (Some(mine), Some(theirs)) = (&mut self.coding, &before.coding) else { return };
        mine.begun = theirs.begun.clone();
        self.take_codings(before);
    }

    /// Takes over what has been made of the same body; whether there was something that it had not.
    pub fn take_codings(&self, before: &Object) -> bool {
        let takes = self.codings().is_empty() && !before.codings().is_empty();
        if takes {
            self.set_codings(before.codings().iter().map(|coded| (coded.coding, coded.body.clone())));
        }
        takes
    }

    /// If nobody has begun to code the body, and it may be: what says that somebody has. The caller does, or takes it back.
    pub fn begin_coding(&self) -> Option<Arc<AtomicBool>> {
        let coding = self.coding.as_ref()?;
        (!coding.begun.swap(true, Ordering::AcqRel)).then(|| coding.begun.clone())
    }

    /// Bytes of memory it takes, bookkeeping included.
    pub fn weight(&self) -> usize {
        let coded = |coded: &Coded| std::mem::size_of::<Coded>() + coded.head.weight() + coded.body.len();
        std::mem::size_of::<Object>()
            + self.head.weight() * if self.is_in_one_block() { 1 } else { 2 }
            + self.codings().iter().map(coded).sum::<usize>()
            + self.variant.weight()
            + self.tags.as_ref().map_or(0, |tags| std::mem::size_of::<Tags>() + tags.weight())
            + self.part.as_ref().map_or(0, |_| std::mem::size_of::<ContentRange>())
            + self.content.in_memory().map_or(0, Bytes::len)
    }

    /// The same without its body, when that is in memory.
    pub fn weight_beside_body(&self) -> usize {
        self.weight() - self.content.in_memory().map_or(0, Bytes::len)
    }

    /// At most that of what is yet to be stored.
    pub fn weight_beside_body_of(key: Key<'_>, head: &Head, storable: &Storable) -> usize {
        let Storable { variant, tags, .. } = storable;
        std::mem::size_of::<(Object, Tags, ContentRange)>()
            + (key.as_str().len() + head.weight()) * 2
            + variant.weight()
            + tags.weight()
    }

    /// Whether nothing but key and head is before the body. Else it has those there still with which it was stored first.
    fn is_in_one_block(&self) -> bool {
        self.content.in_memory().is_none_or(|body| self.head.is_right_before(body))
    }

    pub fn length(&self) -> u64 {
        self.content.length()
    }

    /// Counts one use in [`SAMPLE`]: all cores would want the counter of a hot object at once.
    pub fn used(&self) {
        if fastrand::u32(..SAMPLE) == 0 {
            self.uses.fetch_add(SAMPLE, Ordering::Relaxed);
        }
    }

    /// How often it was asked for, about.
    pub fn uses(&self) -> u32 {
        self.uses.load(Ordering::Relaxed)
    }

    /// What it is to purges.
    pub fn identity(&self) -> Identity<'_> {
        Identity { key: self.key(), tags: &self.tags().hashes, seq: self.checked() }
    }

    /// Whether it is still to be used. One comparison unless there was a purge since the last time.
    pub fn standing(&self, purges: &Purges) -> Standing {
        let current = purges.current();
        if self.checked() < current {
            match purges.standing(&self.identity()) {
                Standing::Dead => return Standing::Dead,
                Standing::SoftPurged { since } => self.survived(current, Some(since)),
                Standing::Live => self.survived(current, None),
            }
        }
        self.soft_purged().map_or(Standing::Live, |since| Standing::SoftPurged { since })
    }

    /// The newest purge that this object is known to have survived.
    pub fn checked(&self) -> PurgeSeq {
        PurgeSeq(self.checked.load(Ordering::Acquire))
    }

    /// When the earliest soft purge up to [`Object::checked`] was that declared it stale.
    pub fn soft_purged(&self) -> Option<Timestamp> {
        let at = self.soft_purged.load(Ordering::Relaxed);
        (at != NEVER).then(|| Timestamp::from_secs(at.into()))
    }

    /// Remembers that it survived every purge up to `seq`, though perhaps declared stale by one. So purges need
    /// not be kept for the sake of objects that nobody asks for.
    pub fn survived(&self, seq: PurgeSeq, soft_purged: Option<Timestamp>) {
        if let Some(at) = soft_purged {
            let at = u32::try_from(at.as_secs()).unwrap_or(NEVER - 1);
            self.soft_purged.fetch_min(at, Ordering::Relaxed);
        }
        // Whoever sees this sees the former, too.
        self.checked.fetch_max(seq.0, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::super::purge::{Event, Target};
    use super::super::testing;
    use super::*;

    #[test]
    fn an_object_takes_little_memory() {
        assert!(size_of::<Object>() <= 184, "{}", size_of::<Object>());
    }

    #[test]
    fn what_was_soft_purged_stays_so_when_the_purge_is_forgotten() {
        let purges = Arc::new(Purges::open(None).unwrap());
        let object = testing::object("h/a", &[], "", 0);
        let at = Timestamp::from_secs;
        let purge = |soft, time| purges.put(Event::Purge { soft, targets: vec![Target::All] }, time);
        for time in [10, 20] {
            purge(true, at(time));
            assert_eq!(object.standing(&purges), Standing::SoftPurged { since: at(10) });
            purges.retire(object.checked());
            assert_eq!(purges.marks(), 0, "nobody has to ask for the object");
            assert_eq!(object.standing(&purges), Standing::SoftPurged { since: at(10) });
        }
        purge(false, at(30));
        assert_eq!(object.standing(&purges), Standing::Dead);
    }
}

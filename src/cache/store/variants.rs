//! The stored responses of one key.

use std::sync::Arc;

use crate::cache::object::Object;
use crate::cache::part::Part;
use crate::cache::vary::Presented;

/// The stored responses of one key, never none: one, unless the origin varies them; and the parts of some that are not
/// whole. A clone is the same responses.
#[derive(Clone)]
pub enum Variants {
    One(Arc<Object>),
    Several(Arc<Several>),
}

/// Whatever is not one whole response.
#[derive(Clone)]
pub struct Several {
    whole: Vec<Arc<Object>>,
    parts: Vec<Arc<Part>>,
}

impl Variants {
    /// Whether they are those of this key.
    pub fn has_key(&self, key: &str) -> bool {
        self.objects().next().is_some_and(|object| object.has_key(key))
    }

    /// The stored response that a request selects; of several the newest (RFC 9111 section 4.1).
    pub fn select(&self, request: Presented<'_>) -> Option<&Arc<Object>> {
        self.whole().rev().find(|object| object.variant.matches(request))
    }

    /// The part of a response that a request would select.
    pub fn select_part(&self, request: Presented<'_>) -> Option<&Arc<Part>> {
        self.parts().rev().find(|part| part.object.variant.matches(request))
    }

    /// All of them, whole or not.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.whole().chain(self.parts().map(|part| &part.object))
    }

    pub fn whole(&self) -> impl DoubleEndedIterator<Item = &Arc<Object>> {
        match self {
            Variants::One(object) => std::slice::from_ref(object).iter(),
            Variants::Several(several) => several.whole.iter(),
        }
    }

    pub fn parts(&self) -> impl DoubleEndedIterator<Item = &Arc<Part>> {
        match self {
            Variants::One(_) => [].iter(),
            Variants::Several(several) => several.parts.iter(),
        }
    }

    /// Whether these are the very same, not only alike.
    pub fn is(&self, other: &Variants) -> bool {
        match (self, other) {
            (Variants::One(one), Variants::One(other)) => Arc::ptr_eq(one, other),
            (Variants::Several(one), Variants::Several(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// With one more, in the place of what is selected alike; of too many the oldest goes.
    pub fn with(before: Option<&Self>, object: Arc<Object>, most: usize) -> Self {
        let mut several = Several::of(before, |other| other.variant != object.variant);
        if several.is_empty() {
            return Variants::One(object);
        }
        if several.whole.len() >= most {
            several.whole.remove(0);
        }
        several.whole.push(object);
        several.into()
    }

    /// With one more that is older than those that are there.
    pub fn with_older(before: Option<&Self>, object: Arc<Object>, most: usize) -> Self {
        let Some(before) = before else { return Variants::One(object) };
        let mut several = Several::of(Some(before), |_| true);
        if several.whole.len() < most {
            several.whole.insert(0, object);
        }
        several.into()
    }

    /// With a part; `None` if the whole is there. `may_join`: whether a part that is there may be joined to others.
    pub fn with_part(
        before: Option<&Self>,
        part: Part,
        most: usize,
        max_object: u64,
        may_join: impl Fn(&Object) -> bool,
    ) -> Option<Self> {
        // Something whole can be validated, or cover for an origin that fails; a part cannot.
        let is_alike = |other: &Object| other.variant == part.object.variant;
        if before.is_some_and(|before| before.whole().any(|other| is_alike(other))) {
            return None;
        }
        let there = before.and_then(|before| before.parts().find(|other| is_alike(&other.object)));
        let joined = there.filter(|there| may_join(&there.object)).and_then(|there| there.joined(&part, max_object));
        let part = joined.unwrap_or(part);
        if let Some(whole) = part.whole() {
            return Some(Self::with(before, whole, most));
        }
        let mut several = Several::of(before, |other| other.variant != part.object.variant);
        if several.parts.len() >= most {
            several.parts.remove(0);
        }
        several.parts.push(Arc::new(part));
        Some(several.into())
    }

    /// The oldest, and the others if there are any; parts go after what is whole.
    pub fn split_off_oldest(self) -> (Self, Option<Self>) {
        let mut others = Several::of(Some(&self), |_| true);
        let oldest = match others.whole.is_empty() {
            true => Several { whole: Vec::new(), parts: others.parts.drain(..1).collect() },
            false => Several { whole: others.whole.drain(..1).collect(), parts: Vec::new() },
        };
        (oldest.into(), (!others.is_empty()).then(|| others.into()))
    }

    /// Without those of which this is so.
    pub fn without(&self, goes: impl Fn(&Arc<Object>) -> bool) -> Option<Self> {
        let several = Several::of(Some(self), |object| !goes(object));
        (!several.is_empty()).then(|| several.into())
    }

    pub fn contains(&self, object: &Arc<Object>) -> bool {
        self.objects().any(|other| Arc::ptr_eq(other, object))
    }
}

impl Several {
    /// Those of an entry of which this is so.
    fn of(entry: Option<&Variants>, stays: impl Fn(&Arc<Object>) -> bool) -> Self {
        let whole = entry.iter().flat_map(|entry| entry.whole()).filter(|object| stays(object)).cloned();
        let parts = entry.iter().flat_map(|entry| entry.parts()).filter(|part| stays(&part.object)).cloned();
        Several { whole: whole.collect(), parts: parts.collect() }
    }

    fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.parts.is_empty()
    }
}

impl From<Several> for Variants {
    fn from(mut several: Several) -> Self {
        match (several.whole.pop(), several.is_empty()) {
            (Some(only), true) => Variants::One(only),
            (last, _) => {
                several.whole.extend(last);
                Variants::Several(Arc::new(several))
            }
        }
    }
}

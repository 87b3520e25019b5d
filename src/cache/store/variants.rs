//! The stored responses of one key.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::request::Fields;

use super::super::object::Object;
use super::super::part::Part;

/// The stored responses of one key: one, unless the origin varies them; and the parts of some that are not whole.
#[derive(Clone, Debug, Default)]
pub struct Variants {
    whole: SmallVec<[Arc<Object>; 1]>,
    parts: Vec<Arc<Part>>,
}

impl Variants {
    /// The stored response that a request selects; of several the newest (RFC 9111 section 4.1).
    pub fn select(&self, request: Fields<'_>) -> Option<&Arc<Object>> {
        self.whole.iter().rev().find(|object| object.variant.matches(request))
    }

    /// The part of a response that a request would select.
    pub fn select_part(&self, request: Fields<'_>) -> Option<&Arc<Part>> {
        self.parts.iter().rev().find(|part| part.object.variant.matches(request))
    }

    /// All of them, whole or not.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.whole.iter().chain(self.parts.iter().map(|part| &part.object))
    }

    pub fn whole(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.whole.iter()
    }

    pub fn parts(&self) -> impl Iterator<Item = &Arc<Part>> {
        self.parts.iter()
    }

    /// How often they were asked for, about.
    pub fn uses(&self) -> u32 {
        self.objects().map(|object| object.uses()).fold(0, u32::saturating_add)
    }

    pub fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.parts.is_empty()
    }

    /// With one more, in the place of what is selected alike; of too many the oldest goes.
    pub fn with(&self, object: Arc<Object>, most: usize) -> Self {
        let mut variants = self.without(&object);
        if variants.whole.len() >= most {
            variants.whole.remove(0);
        }
        variants.whole.push(object);
        variants
    }

    /// With one more that is older than those that are there.
    pub fn with_older(&self, object: Arc<Object>, most: usize) -> Self {
        let mut variants = self.clone();
        if variants.whole.len() < most {
            variants.whole.insert(0, object);
        }
        variants
    }

    /// With a part, unless the whole is there; `may_join`: whether a part that is there may be joined to others.
    pub fn with_part(&self, part: Part, most: usize, max_object: u64, may_join: impl Fn(&Object) -> bool) -> Self {
        // Something whole can be validated, or cover for an origin that fails; a part cannot.
        if self.whole.iter().any(|other| other.variant == part.object.variant) {
            return self.clone();
        }
        let before = self.parts.iter().find(|other| other.object.variant == part.object.variant);
        let before = before.filter(|before| may_join(&before.object));
        let joined = before.and_then(|before| before.joined(&part, max_object));
        let part = joined.unwrap_or(part);
        if let Some(whole) = part.whole() {
            return self.with(whole, most);
        }
        let mut variants = self.without(&part.object);
        if variants.parts.len() >= most {
            variants.parts.remove(0);
        }
        variants.parts.push(Arc::new(part));
        variants
    }

    /// Without what is selected alike.
    pub fn without(&self, object: &Object) -> Self {
        Variants {
            whole: self.whole.iter().filter(|other| other.variant != object.variant).cloned().collect(),
            parts: self.parts.iter().filter(|other| other.object.variant != object.variant).cloned().collect(),
        }
    }

    /// Without this one object.
    pub fn without_this(&self, object: &Arc<Object>) -> Self {
        Variants {
            whole: self.whole.iter().filter(|other| !Arc::ptr_eq(other, object)).cloned().collect(),
            parts: self.parts.iter().filter(|other| !Arc::ptr_eq(&other.object, object)).cloned().collect(),
        }
    }

    pub fn contains(&self, object: &Arc<Object>) -> bool {
        self.objects().any(|other| Arc::ptr_eq(other, object))
    }
}

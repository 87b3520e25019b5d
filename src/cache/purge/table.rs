//! The purges in force, arranged so that asking about one object takes a handful of hash lookups.

use std::collections::{BTreeSet, HashMap};

use crate::clock::Timestamp;
use crate::plan::Key;

use super::super::tags::TagHash;
use super::record::{PurgeSeq, Target};

/// What an object is to purges.
pub struct Identity<'a> {
    pub key: Key<'a>,
    pub tags: &'a [TagHash],
    pub seq: PurgeSeq,
}

/// Whether an object may still be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Hit by none.
    Live,
    /// Declared stale by a soft purge at this time.
    SoftPurged { since: Timestamp },
    /// Hit by a hard purge: never to be used again, not even to be validated.
    Dead,
}

/// The latest purges of one target.
#[derive(Debug, Clone, Copy, Default)]
struct Marks {
    hard: PurgeSeq,
    soft: PurgeSeq,
    soft_time: Timestamp,
}

/// The marks of one site, or of all.
#[derive(Debug, Default)]
struct Scope {
    whole: Marks,
    tags: HashMap<TagHash, Marks>,
    urls: HashMap<Box<str>, Marks>,
    prefixes: HashMap<Box<str>, Marks>,
    /// The lengths that prefixes have: only these cuts of a URL have to be looked up.
    prefix_lengths: BTreeSet<usize>,
}

#[derive(Debug, Default)]
pub(crate) struct PurgeTable {
    everywhere: Scope,
    sites: HashMap<Box<str>, Scope>,
}

impl Marks {
    fn mark(&mut self, soft: bool, seq: PurgeSeq, time: Timestamp) {
        if soft {
            (self.soft, self.soft_time) = (seq, time);
        } else {
            self.hard = seq;
        }
    }

    fn newest(&self) -> PurgeSeq {
        self.hard.max(self.soft)
    }
}

impl PurgeTable {
    pub(crate) fn mark(&mut self, targets: &[Target], soft: bool, seq: PurgeSeq, time: Timestamp) {
        for target in targets {
            self.marks_of(target).mark(soft, seq, time);
        }
    }

    pub(crate) fn standing(&self, object: &Identity<'_>) -> Standing {
        let mut standing = Standing::Live;
        self.each_mark(object, |marks| {
            if marks.hard > object.seq {
                standing = Standing::Dead;
            } else if marks.soft > object.seq && standing != Standing::Dead {
                let since = match standing {
                    Standing::SoftPurged { since } => since.min(marks.soft_time),
                    _ => marks.soft_time,
                };
                standing = Standing::SoftPurged { since };
            }
        });
        standing
    }

    /// The first of the hard purges that hit it.
    pub(crate) fn killer(&self, object: &Identity<'_>) -> Option<PurgeSeq> {
        let mut killer: Option<PurgeSeq> = None;
        self.each_mark(object, |marks| {
            if marks.hard > object.seq {
                killer = Some(killer.map_or(marks.hard, |known| known.min(marks.hard)));
            }
        });
        killer
    }

    /// The marks of all targets that an object belongs to.
    fn each_mark(&self, object: &Identity<'_>, mut each: impl FnMut(&Marks)) {
        let uri = object.key.uri();
        for scope in self.sites.get(object.key.site()).into_iter().chain([&self.everywhere]) {
            each(&scope.whole);
            for tag in object.tags {
                scope.tags.get(tag).into_iter().for_each(&mut each);
            }
            scope.urls.get(uri).into_iter().for_each(&mut each);
            for length in scope.prefix_lengths.iter().take_while(|length| **length <= uri.len()) {
                uri.get(..*length).and_then(|cut| scope.prefixes.get(cut)).into_iter().for_each(&mut each);
            }
        }
    }

    /// What it holds: each target with its newest purge.
    pub(crate) fn targets(&self) -> Vec<(Target, PurgeSeq)> {
        let mut targets = Vec::new();
        let sites = self.sites.iter().map(|(site, scope)| (Some(site.to_string()), scope));
        for (site, scope) in sites.chain([(None, &self.everywhere)]) {
            let whole = site.clone().map_or(Target::All, |site| Target::Site { site });
            targets.push((whole, scope.whole.newest()));
            for (tag, marks) in &scope.tags {
                targets.push((Target::Tag { site: site.clone(), tag: *tag }, marks.newest()));
            }
            let site = site.unwrap_or_default(); // there are no URLs without one
            for (uri, marks) in &scope.urls {
                targets.push((Target::Url { site: site.clone(), uri: uri.to_string() }, marks.newest()));
            }
            for (prefix, marks) in &scope.prefixes {
                targets.push((Target::Prefix { site: site.clone(), prefix: prefix.to_string() }, marks.newest()));
            }
        }
        targets.retain(|(_, newest)| *newest > PurgeSeq(0));
        targets
    }

    /// Drops what no object can be older than.
    pub(crate) fn retire(&mut self, oldest_in_use: PurgeSeq) {
        self.everywhere.retire(oldest_in_use);
        self.sites.retain(|_, scope| {
            scope.retire(oldest_in_use);
            scope.len() > 0
        });
    }

    /// How many marks there are.
    pub(crate) fn len(&self) -> usize {
        self.everywhere.len() + self.sites.values().map(Scope::len).sum::<usize>()
    }

    fn marks_of(&mut self, target: &Target) -> &mut Marks {
        match target {
            Target::All => &mut self.everywhere.whole,
            Target::Tag { site: None, tag } => self.everywhere.tags.entry(*tag).or_default(),
            Target::Tag { site: Some(site), tag } => self.site(site).tags.entry(*tag).or_default(),
            Target::Site { site } => &mut self.site(site).whole,
            Target::Url { site, uri } => self.site(site).urls.entry(uri.as_str().into()).or_default(),
            Target::Prefix { site, prefix } => {
                let site = self.site(site);
                site.prefix_lengths.insert(prefix.len());
                site.prefixes.entry(prefix.as_str().into()).or_default()
            }
        }
    }

    fn site(&mut self, name: &str) -> &mut Scope {
        self.sites.entry(name.into()).or_default()
    }
}

impl Scope {
    fn retire(&mut self, oldest_in_use: PurgeSeq) {
        let is_needed = |marks: &Marks| marks.newest() > oldest_in_use;
        if !is_needed(&self.whole) {
            self.whole = Marks::default();
        }
        self.tags.retain(|_, marks| is_needed(marks));
        self.urls.retain(|_, marks| is_needed(marks));
        self.prefixes.retain(|_, marks| is_needed(marks));
        self.prefix_lengths = self.prefixes.keys().map(|prefix| prefix.len()).collect();
    }

    fn len(&self) -> usize {
        let whole = usize::from(self.whole.newest() > PurgeSeq(0));
        whole + self.tags.len() + self.urls.len() + self.prefixes.len()
    }
}

#[cfg(test)]
mod tests {
    use crate::plan::CacheKey;

    use super::*;

    fn key(site: &str, uri: &str) -> CacheKey {
        CacheKey::from_written(&format!("{site}\u{1f}1\u{1f}{uri}"))
    }

    fn url(uri: &str) -> Target {
        Target::Url { site: "s".into(), uri: uri.into() }
    }

    fn prefix(prefix: &str) -> Target {
        Target::Prefix { site: "s".into(), prefix: prefix.into() }
    }

    fn tag(site: Option<&str>, tag: &str) -> Target {
        Target::Tag { site: site.map(str::to_owned), tag: TagHash::of(tag) }
    }

    #[test]
    fn what_a_purge_hits() {
        let site = |name: &str| Target::Site { site: name.into() };
        for (target, hit) in [
            (Target::All, true),
            (site("s"), true),
            (site("t"), false),
            (url("h/a/b?q"), true),
            (url("h/a/b"), false),
            (prefix("h/a/"), true),
            (prefix("h/a/b?q"), true),
            (prefix("h/a/b?q1"), false),
            (prefix("h/b"), false),
            (tag(None, "x"), true),
            (tag(Some("s"), "X"), true),
            (tag(Some("t"), "x"), false),
            (tag(None, "y"), false),
        ] {
            let mut table = PurgeTable::default();
            table.mark(std::slice::from_ref(&target), false, PurgeSeq(5), Timestamp::default());
            let (key, tags) = (key("s", "h/a/b?q"), [TagHash::of("x")]);
            let standing = |seq| table.standing(&Identity { key: key.view(), tags: &tags, seq: PurgeSeq(seq) });
            assert_eq!(standing(4) == Standing::Dead, hit, "{target:?}");
            assert_eq!(standing(5), Standing::Live, "an object filled after the purge: {target:?}");
        }
    }

    #[test]
    fn hard_beats_soft_and_the_earliest_soft_purge_counts() {
        let at = Timestamp::from_secs;
        let mut table = PurgeTable::default();
        table.mark(&[Target::All], true, PurgeSeq(1), at(10));
        table.mark(&[url("h/a")], true, PurgeSeq(2), at(20));
        let key = key("s", "h/a");
        let standing =
            |table: &PurgeTable, seq| table.standing(&Identity { key: key.view(), tags: &[], seq: PurgeSeq(seq) });
        assert_eq!(standing(&table, 0), Standing::SoftPurged { since: at(10) });
        assert_eq!(standing(&table, 1), Standing::SoftPurged { since: at(20) });
        table.mark(&[prefix("h/")], false, PurgeSeq(3), at(30));
        assert_eq!(standing(&table, 0), Standing::Dead);
        assert_eq!(standing(&table, 3), Standing::Live);
    }

    #[test]
    fn retiring_changes_nothing_for_objects_in_use() {
        let mut table = PurgeTable::default();
        let targets = [url("h/a"), prefix("h/b"), tag(None, "x"), tag(Some("s"), "y"), Target::All];
        for (i, target) in targets.iter().enumerate() {
            table.mark(std::slice::from_ref(target), false, PurgeSeq(i as u64 + 1), Timestamp::default());
        }
        assert_eq!(table.len(), 5);
        table.retire(PurgeSeq(3));
        assert_eq!(table.len(), 2);
        let (key, tags) = (key("s", "h/c"), [TagHash::of("y")]);
        for (seq, standing) in [(3, Standing::Dead), (4, Standing::Dead), (5, Standing::Live)] {
            assert_eq!(table.standing(&Identity { key: key.view(), tags: &tags, seq: PurgeSeq(seq) }), standing);
        }
        table.retire(PurgeSeq(5));
        assert_eq!(table.len(), 0);
    }
}

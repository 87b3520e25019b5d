//! The origins of a pool as one is picked from them: by level, and with those alone that take requests. It is made anew whenever
//! one of them changes; a pick only reads it.

use std::ops::Add;
use std::sync::Arc;

use crate::clock::ticks;
use crate::config::model::{Pool, Share};

use super::balance::{self, Candidate, Candidates};
use super::levels::{self, PerLevel, Trust};
use super::member::{Level, Members};
use super::state::{OriginState, OriginStatus};

/// How the levels of a pool stand.
#[derive(Default)]
pub(crate) struct Lineup {
    pub members: Arc<Members>,
    pub levels: Vec<Standing>,
    /// Those that are ejected: better than none.
    pub ejected: Candidates,
}

/// How one of them stands.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    pub candidates: Candidates,
    /// How much of its capacity is well, by weight.
    pub health: f64,
    /// Its part of the requests.
    pub share: f64,
    /// All of its origins are asked, well or not.
    pub is_panic: bool,
}

/// How they stand now. `trusts`: what is remembered of each.
pub(super) fn line_up(pool: &Pool, members: &Arc<Members>, trusts: &mut [Trust]) -> Lineup {
    let (now, levels) = (ticks(), &members.levels);
    let origin = |index: usize| -> &OriginState { &members.all[index].origin };
    let weight = |index: usize| origin(index).ordered_weight().unwrap_or(members.all[index].config.weight);
    // Nobody looks any more: a request left over from a configuration with a check, or with ejections, said so.
    let is_up = |index: usize| match origin(index).status() {
        OriginStatus::Up => true,
        OriginStatus::Down => pool.health.is_none(),
        OriginStatus::Ejected => pool.passive.is_none(),
        OriginStatus::Draining | OriginStatus::Unresolved => false,
    };
    let candidate = |index: usize| {
        let up_for = now.saturating_sub(origin(index).up_since());
        let weight = balance::weight_of(weight(index), pool.slow_start, up_for);
        Candidate { index, identity: members.all[index].identity, weight }
    };
    let health = |level: &Level| {
        let weight = |index: &usize| f64::from(weight(*index));
        // What is drained is not counted on, and of a name without addresses nothing is known.
        let is_counted =
            |index: &&usize| !matches!(origin(**index).status(), OriginStatus::Draining | OriginStatus::Unresolved);
        let all = level.origins.iter().filter(is_counted).map(weight).sum::<f64>();
        let up = level.origins.iter().filter(|index| is_up(**index)).map(weight).fold(0.0, f64::add);
        (all > 0.0).then(|| up / all)
    };
    let health: PerLevel<Option<f64>> = levels.iter().map(health).collect();
    let after = u64::try_from(pool.failback_after.as_millis()).unwrap_or(u64::MAX);
    for (trust, health) in trusts.iter_mut().zip(&health) {
        health.iter().for_each(|health| trust.update(*health, now, after));
    }
    let held = trusts.iter().zip(&health).map(|(trust, health)| health.map_or(0.0, |_| trust.held));
    let held: PerLevel<f64> = held.collect();
    let health: PerLevel<f64> = health.iter().map(|health| health.unwrap_or(0.0)).collect();
    let overflow_at = pool.overflow_at.of_one();
    let shares = levels::shares(&levels::trusted(&health, &held, overflow_at), overflow_at);
    let panic_at = pool.panic_at.map(Share::of_one);
    let standing = |(place, level): (usize, &Level)| {
        let is_panic = levels::is_panic(health[place], &health, overflow_at, panic_at);
        let may_be = |index: &usize| match is_panic {
            true => !matches!(origin(*index).status(), OriginStatus::Draining | OriginStatus::Unresolved),
            false => is_up(*index),
        };
        let candidates = level.origins.iter().copied().filter(may_be).map(candidate).collect();
        // Whether one is well or not: in a panic all have their part.
        let share = if is_panic && shares.iter().all(|share| *share == 0.0) { 1.0 } else { shares[place] };
        Standing { candidates, health: health[place], share, is_panic }
    };
    let ejected = (0..members.all.len()).filter(|index| origin(*index).status() == OriginStatus::Ejected);
    Lineup {
        members: members.clone(),
        levels: levels.iter().enumerate().map(standing).collect(),
        ejected: ejected.map(candidate).collect(),
    }
}

impl Lineup {
    /// The level that a number from 0 to 1 falls on.
    pub(super) fn level_at(&self, number: f64) -> usize {
        if self.levels.len() == 1 {
            return 0;
        }
        let mut left = number;
        let place = self.levels.iter().position(|level| {
            left -= level.share;
            left < 0.0
        });
        place.unwrap_or(0)
    }

    /// Those that take requests, of all levels in their order.
    pub(super) fn candidates(&self) -> impl Iterator<Item = &Candidate> {
        self.levels.iter().flat_map(|level| level.candidates.iter())
    }

    /// The level with most of the requests.
    pub(super) fn main_level(&self) -> Option<usize> {
        let with_share = self.levels.iter().enumerate().filter(|(_, level)| level.share > 0.0);
        with_share.max_by(|(_, one), (_, other)| one.share.total_cmp(&other.share)).map(|(place, _)| place)
    }
}

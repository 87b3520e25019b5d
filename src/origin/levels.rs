//! Which part of a pool's requests goes to which of its levels: pure functions over how much of each is well.
//!
//! A level is what a priority has in one region; the first one has all requests as long as enough of it is well.

use smallvec::SmallVec;

/// One number for each level.
pub(super) type PerLevel<T> = SmallVec<[T; 4]>;

/// The shares of the requests by how much of each level's capacity is well, from 0 to 1. A level can take all as long as
/// `overflow_at` of it is well, and less in proportion below; the rest goes on to the next (as Envoy's priority levels have it). Where all
/// together cannot take everything, each has its part of it. All are 0 only if nothing is well.
pub(super) fn shares(health: &[f64], overflow_at: f64) -> PerLevel<f64> {
    let takes = |health: f64| if overflow_at > 0.0 { (health / overflow_at).min(1.0) } else { f64::from(health > 0.0) };
    let all: f64 = health.iter().map(|health| takes(*health)).sum();
    let mut left = 1.0_f64;
    let shares = health.iter().map(|health| {
        if all < 1.0 {
            return if all > 0.0 { takes(*health) / all } else { 0.0 };
        }
        let share = takes(*health).min(left);
        left -= share;
        share
    });
    shares.collect()
}

/// How much of a level is taken for well: less at once, more only after it was so for a while. What has just come back has to last
/// before it gets requests from elsewhere.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Trust {
    /// What is taken for well.
    pub held: f64,
    /// What has been well at least since it rose above that, and when that was: milliseconds.
    risen: Option<(f64, u64)>,
}

impl Trust {
    pub(super) fn new(health: f64) -> Self {
        Trust { held: health, risen: None }
    }

    /// How it is at `now`; `after`: milliseconds for which it must have been better.
    pub(super) fn update(&mut self, health: f64, now: u64, after: u64) {
        if health <= self.held {
            *self = Trust::new(health);
            return;
        }
        let (least, since) = self.risen.map_or((health, now), |(least, since)| (least.min(health), since));
        self.risen = Some((least, since));
        if now.saturating_sub(since) >= after {
            *self = Trust { held: least, risen: (health > least).then_some((health, now)) };
        }
    }
}

/// How much of each level counts: what is held, unless that does not suffice for everything while more is well.
pub(super) fn trusted(health: &[f64], held: &[f64], overflow_at: f64) -> PerLevel<f64> {
    let suffices = |health: &[f64]| health.iter().map(|health| health / overflow_at.max(0.001)).sum::<f64>() >= 1.0;
    PerLevel::from_slice(if suffices(held) { held } else { health })
}

/// Whether of a level all origins are asked, well or not: so few of it are well that these would only be overrun, and the pool as a
/// whole is no help.
pub(super) fn is_panic(health: f64, all: &[f64], overflow_at: f64, panic_at: Option<f64>) -> bool {
    let suffices = all.iter().map(|health| health / overflow_at.max(0.001)).sum::<f64>() >= 1.0;
    !suffices && panic_at.is_some_and(|panic_at| health < panic_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_level_cannot_take_goes_to_the_next() {
        for (health, overflow_at, expected) in [
            (&[1.0, 1.0][..], 0.7, &[1.0, 0.0][..]),
            (&[0.7, 1.0], 0.7, &[1.0, 0.0]),
            (&[0.35, 1.0], 0.7, &[0.5, 0.5]),
            (&[0.0, 1.0], 0.7, &[0.0, 1.0]),
            (&[0.35, 0.14, 1.0], 0.7, &[0.5, 0.2, 0.3]),
            (&[0.14, 0.14], 0.7, &[0.5, 0.5]),
            (&[0.07, 0.21], 0.7, &[0.25, 0.75]),
            (&[0.0, 0.0], 0.7, &[0.0, 0.0]),
            (&[0.01, 1.0], 0.0, &[1.0, 0.0]),
            (&[0.99, 1.0], 1.0, &[0.99, 0.01]),
            (&[0.5], 0.7, &[1.0]),
        ] {
            let shares = shares(health, overflow_at);
            let is_close = shares.iter().zip(expected).all(|(share, expected)| (share - expected).abs() < 1e-9);
            assert!(is_close, "{health:?} {overflow_at}: {shares:?}");
        }
    }

    #[test]
    fn what_comes_back_has_to_last() {
        let mut trust = Trust::new(1.0);
        for (health, now, held) in [
            (0.2, 1_000, 0.2), // less counts at once
            (1.0, 2_000, 0.2), // more does not
            (0.2, 5_000, 0.2), // it flaps: the time begins anew
            (0.8, 6_000, 0.2),
            (1.0, 9_000, 0.2),
            (1.0, 16_000, 0.8), // so much it was for ten seconds
            (1.0, 25_000, 0.8),
            (1.0, 26_000, 1.0),
            (0.0, 27_000, 0.0),
        ] {
            trust.update(health, now, 10_000);
            assert_eq!(trust.held, held, "{now}");
        }
    }

    #[test]
    fn what_is_well_counts_where_what_lasts_does_not_suffice() {
        assert_eq!(trusted(&[1.0, 1.0], &[0.0, 1.0], 0.7)[..], [0.0, 1.0]);
        assert_eq!(trusted(&[1.0, 0.0], &[0.0, 0.0], 0.7)[..], [1.0, 0.0], "better new than nothing");
    }

    #[test]
    fn panic_is_where_few_are_well_and_no_other_level_helps() {
        assert!(is_panic(0.2, &[0.2], 0.7, Some(0.5)));
        assert!(!is_panic(0.2, &[0.2, 1.0], 0.7, Some(0.5)));
        assert!(!is_panic(0.6, &[0.6], 0.7, Some(0.5)));
        assert!(!is_panic(0.0, &[0.0], 0.7, None));
    }
}

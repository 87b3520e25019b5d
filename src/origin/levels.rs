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
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Trust {
    /// What is taken for well.
    pub held: f64,
    /// Rising above that: how much has been well at least, and since when, milliseconds.
    rising: SmallVec<[(f64, u64); 2]>,
}

/// Steps of a rise that are remembered. Of one with more the rest counts as the last of these.
const MOST_STEPS: usize = 16;

impl Trust {
    pub(super) fn new(health: f64) -> Self {
        Trust { held: health, rising: SmallVec::new() }
    }

    /// How it is at `now`; `after`: milliseconds for which it must have been better.
    pub(super) fn update(&mut self, health: f64, now: u64, after: u64) {
        if health <= self.held {
            *self = Trust::new(health);
            return;
        }
        let mut since = now;
        while let Some((_, begun)) = self.rising.last().copied().filter(|(least, _)| *least >= health) {
            since = begun;
            self.rising.pop();
        }
        if self.rising.len() < MOST_STEPS {
            self.rising.push((health, since));
        }
        let lasting = self.rising.iter().take_while(|(_, since)| now.saturating_sub(*since) >= after).count();
        if let Some((least, _)) = self.rising.drain(..lasting).next_back() {
            self.held = least;
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
            (1.0, 18_000, 0.8),
            (1.0, 19_000, 1.0), // and so much
            (0.0, 20_000, 0.0),
            (0.5, 21_000, 0.0),
            (1.0, 21_200, 0.0),
            (0.7, 22_000, 0.0), // less than before: so much it was since it was more
            (1.0, 23_000, 0.0),
            (1.0, 31_100, 0.5),
            (1.0, 31_200, 0.7),
            (1.0, 32_900, 0.7),
            (1.0, 33_000, 1.0),
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

    /// Its name, colour and points.
    type Line<'a> = (&'a str, &'a str, Vec<(f64, f64)>);

    /// What the manual shows: the shares by how much of the first level is well, and over a minute in which it goes and comes back.
    fn picture() -> String {
        let mut out = String::from(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"700\" height=\"190\" font-family=\"sans-serif\" font-size=\"11\">\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        );
        let mut panel = |left: f64, title: &str, axis: &str, lines: [Line<'_>; 3]| {
            let at = |(x, y): &(f64, f64)| format!("{:.1},{:.1}", left + x * 260.0, 140.0 - y * 100.0);
            out += &format!("<text x=\"{left}\" y=\"16\">{title}</text><text x=\"{left}\" y=\"160\">{axis}</text>\n");
            out += &format!("<path d=\"M{left} 140h260M{left} 40h260\" stroke=\"#ddd\"/>\n");
            for (number, (name, colour, points)) in lines.into_iter().enumerate() {
                let points: Vec<String> = points.iter().map(at).collect();
                let (x, style) = (left + 90.0 * number as f64, "fill=\"none\" stroke-width=\"2\"");
                out += &format!("<polyline points=\"{}\" stroke=\"{colour}\" {style}/>\n", points.join(" "));
                out += &format!("<text x=\"{x}\" y=\"180\" fill=\"{colour}\">{name}</text>\n");
            }
        };
        let by_health = |level: usize| -> Vec<(f64, f64)> {
            (0..=50)
                .map(|step| f64::from(step) / 50.0)
                .map(|health| (health, shares(&[health, 1.0], 0.7)[level]))
                .collect()
        };
        let names = [("first level", "#0a58ca"), ("second level", "#c2410c"), ("well", "#999")];
        let line = |number: usize, points| (names[number].0, names[number].1, points);
        panel(
            30.0,
            "share of the requests, by how much of the first level is well",
            "0 % ... 100 % of the first level is well",
            [line(0, by_health(0)), line(1, by_health(1)), ("", "#999", Vec::new())],
        );
        // Half goes at 5 s, all at 10 s; it flaps at 20 s, and is back at 30 s.
        let health = |second: u32| match second {
            0..5 | 30.. => 1.0,
            5..10 => 0.5,
            20..22 => 1.0,
            _ => 0.0,
        };
        let mut trust = Trust::new(1.0);
        let mut over_time = [Vec::new(), Vec::new(), Vec::new()];
        for second in 0..=60 {
            trust.update(health(second), u64::from(second) * 1000, 10_000);
            let held = trusted(&[health(second), 1.0], &[trust.held, 1.0], 0.7);
            let both = shares(&held, 0.7);
            let x = f64::from(second) / 60.0;
            let values = [both[0], both[1], health(second)];
            over_time.iter_mut().zip(values).for_each(|(line, value)| line.push((x, value)));
        }
        let [first, second, well] = over_time;
        panel(
            390.0,
            "the same over a minute; what has come back has to last ten seconds",
            "0 s ... 60 s",
            [line(0, first), line(1, second), line(2, well)],
        );
        out + "</svg>\n"
    }

    #[test]
    fn the_picture_in_the_manual_shows_what_is_computed() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/levels.svg");
        if std::env::var_os("SEAWALL_DRAW").is_some() {
            std::fs::write(path, picture()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), picture(), "SEAWALL_DRAW=1 draws it anew");
    }
}

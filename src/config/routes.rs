//! The routes of a site. The first that fits serves a request, in the order of the configuration; of very many it is found
//! without looking at each.

use std::collections::HashMap;
use std::ops::Deref;

use http::Method;

use super::section::cache::CacheMode;
use super::section::route::Route;
use crate::pattern::Anchor;

/// So many and fewer are gone through one after the other, which is quicker.
const FEW: usize = 16;

/// Places of routes, in their order.
type Places = Vec<u32>;

/// A site's routes, in their order.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    all: Vec<Route>,
    exact: HashMap<Box<[u8]>, Places>,
    prefixes: Affixes,
    suffixes: Affixes,
    /// Those of whose paths neither the beginning nor the end is known.
    others: Places,
    /// Those with a condition.
    conditional: Places,
}

/// Routes by what their paths begin with, or by what they end with.
#[derive(Debug, Clone, Default)]
struct Affixes {
    places: HashMap<Box<[u8]>, Places>,
    /// The lengths that there are.
    lengths: Vec<usize>,
}

impl Affixes {
    fn insert(&mut self, affix: &str, place: u32) {
        self.places.entry(affix.as_bytes().into()).or_default().push(place);
        if let Err(at) = self.lengths.binary_search(&affix.len()) {
            self.lengths.insert(at, affix.len());
        }
    }

    /// Those of a path; `cut` gives so many of its bytes.
    fn of<'p>(&self, path: &'p [u8], cut: impl Fn(&'p [u8], usize) -> &'p [u8]) -> impl Iterator<Item = &Places> {
        let lengths = self.lengths.iter().take_while(move |length| **length <= path.len());
        lengths.filter_map(move |length| self.places.get(cut(path, *length)))
    }
}

impl Routes {
    /// Has none of them cache.
    pub fn stop_caching(&mut self) {
        self.all.iter_mut().for_each(|route| route.cache.mode = CacheMode::Off);
    }
}

impl FromIterator<Route> for Routes {
    fn from_iter<I: IntoIterator<Item = Route>>(routes: I) -> Self {
        let mut routes = Routes { all: routes.into_iter().collect(), ..Routes::default() };
        let conditional = routes.all.iter().enumerate().filter(|(_, route)| route.when.is_some());
        routes.conditional = conditional.map(|(place, _)| place as u32).collect();
        if routes.all.len() <= FEW {
            return routes;
        }
        let (mut begin, mut end) = (HashMap::<&str, usize>::new(), HashMap::<&str, usize>::new());
        for route in &routes.all {
            if let Anchor::Affixes(first, last) = route.path.anchor() {
                *begin.entry(first).or_default() += 1;
                *end.entry(last).or_default() += 1;
            }
        }
        for (place, route) in routes.all.iter().enumerate() {
            let place = place as u32; // a configuration is far smaller
            match route.path.anchor() {
                Anchor::Exact(path) => routes.exact.entry(path.as_bytes().into()).or_default().push(place),
                Anchor::Affixes("", "") => routes.others.push(place),
                // By what fewer have.
                Anchor::Affixes(first, last) if last.is_empty() || !first.is_empty() && begin[first] <= end[last] => {
                    routes.prefixes.insert(first, place);
                }
                Anchor::Affixes(_, last) => routes.suffixes.insert(last, place),
            }
        }
        routes
    }
}

impl Deref for Routes {
    type Target = [Route];

    fn deref(&self) -> &[Route] {
        &self.all
    }
}

impl Routes {
    /// The place of the route that serves a method and a normalised path.
    pub fn serving(&self, method: &Method, path: &str, holds: impl Fn(&Route) -> bool) -> Option<usize> {
        self.first(path, |route| route.serves(method, path) && holds(route))
    }

    /// The places of those with a condition.
    pub fn conditional(&self) -> impl Iterator<Item = usize> {
        self.conditional.iter().map(|place| *place as usize)
    }

    /// Whether any route is for a path, be it for other methods.
    pub fn has_path(&self, path: &str, holds: impl Fn(&Route) -> bool) -> bool {
        self.first(path, |route| route.path.matches(path) && holds(route)).is_some()
    }

    fn first(&self, path: &str, suits: impl Fn(&Route) -> bool) -> Option<usize> {
        if self.all.len() <= FEW {
            return self.all.iter().position(suits);
        }
        let path = path.as_bytes();
        let known = self.exact.get(path).into_iter();
        let known = known.chain(self.prefixes.of(path, |path, length| &path[..length]));
        let known = known.chain(self.suffixes.of(path, |path, length| &path[path.len() - length..]));
        known
            .chain([&self.others])
            .fold(None::<u32>, |best, places| {
                let better = places.iter().take_while(|place| best.is_none_or(|best| **place < best));
                better.copied().find(|place| suits(&self.all[*place as usize])).or(best)
            })
            .map(|place| place as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::path::Path;

    use super::super::load;
    use super::*;

    fn routes(patterns: &[(String, &str)]) -> Routes {
        let mut text = "[pool.app]\norigins = [\"127.0.0.1:1\"]\n[site.shop]\nhosts = [\"*\"]\n".to_owned();
        for (path, methods) in patterns {
            let _ = writeln!(text, "[[site.shop.route]]\npath = \"{path}\"\npool = \"app\"\nmethods = [{methods}]");
        }
        let config = load::parse(Path::new("test.toml"), &text).unwrap_or_else(|errors| panic!("{errors}"));
        config.sites[0].routes.clone()
    }

    #[test]
    fn the_last_of_very_many_is_found_as_soon_as_the_first() {
        let many: Vec<(String, &str)> = (0..20_000).map(|number| (format!("/shop/{number}/*"), "")).collect();
        let routes = routes(&many);
        let looks = std::cell::Cell::new(0);
        let path = format!("/shop/{}/a", many.len() - 1);
        let found = routes.first(&path, |route| {
            looks.set(looks.get() + 1);
            route.path.matches(&path)
        });
        assert_eq!((found, looks.get()), (Some(many.len() - 1), 1));
        assert!(routes.serving(&Method::GET, "/none", |_| true).is_none());
    }

    #[test]
    fn the_first_in_order_serves_however_many_there_are() {
        let mut random = fastrand::Rng::with_seed(7);
        let parts = ["a", "b", "ab", "c.css", "a/b", "x"];
        for _ in 0..50 {
            let patterns: Vec<(String, &str)> = (0..60)
                .map(|_| {
                    let mut part = || parts[random.usize(..parts.len())];
                    let path = match part().len() {
                        1 => format!("/{}/{}", part(), part()),
                        2 => format!("/{}/*", part()),
                        3 => format!("/{}/*/{}", part(), part()),
                        _ => format!("*{}", part()),
                    };
                    (path, if random.bool() { "" } else { "\"POST\"" })
                })
                .chain([("*b*".to_owned(), "\"PUT\"")])
                .collect();
            let routes = routes(&patterns);
            for _ in 0..300 {
                let mut part = || parts[random.usize(..parts.len())];
                let path = format!("/{}/{}", part(), part());
                for method in [Method::GET, Method::POST, Method::PUT] {
                    let expected = routes.iter().position(|route| route.serves(&method, &path));
                    assert_eq!(routes.serving(&method, &path, |_| true), expected, "{method} {path} {patterns:?}");
                }
                assert_eq!(
                    routes.has_path(&path, |_| true),
                    routes.iter().any(|route| route.path.matches(&path)),
                    "{path}"
                );
            }
        }
    }
}

//! Why a response is stored or not: a closed list of words, the same in `Cache-Status`, metrics, the log, `seawall
//! explain` and the manual (docs/reasons.md).

/// What a stored response's lifetime rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum Basis {
    SMaxage,
    #[default]
    MaxAge,
    Expires,
    /// `no-cache`: it is validated before each use.
    NoCache,
    DefaultTtl,
    NegativeTtl,
    Heuristic,
    /// Nothing: it is kept only to be validated for each request.
    Validator,
    /// The route's `ttl` in mode `force`.
    Forced,
}

/// Why a response is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    NoStore,
    /// The client's own `no-store`.
    ClientNoStore,
    /// `must-understand` on a status that this cache does not.
    MustUnderstand,
    Private,
    Authorization,
    SetCookie,
    VaryStar,
    Status,
    /// An error that the request's unusual form may have caused.
    RequestForm,
    NoFreshness,
    /// Likewise, and the response may be about who asked: it is not kept for its validator either.
    Visitor,
    Expired,
    TooLarge,
    TagsTooLarge,
    Partial,
    Disk,
    FillBuffer,
}

/// One entry of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reason {
    /// The word.
    pub word: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// Whose rule it is.
    pub source: &'static str,
}

/// Every reason, those for storing first.
pub fn all() -> impl Iterator<Item = (bool, Reason)> {
    let stored = [
        Basis::SMaxage,
        Basis::MaxAge,
        Basis::Expires,
        Basis::NoCache,
        Basis::DefaultTtl,
        Basis::NegativeTtl,
        Basis::Heuristic,
        Basis::Validator,
        Basis::Forced,
    ];
    let skipped = [
        SkipReason::NoStore,
        SkipReason::ClientNoStore,
        SkipReason::MustUnderstand,
        SkipReason::Private,
        SkipReason::Authorization,
        SkipReason::SetCookie,
        SkipReason::VaryStar,
        SkipReason::Status,
        SkipReason::RequestForm,
        SkipReason::NoFreshness,
        SkipReason::Visitor,
        SkipReason::Expired,
        SkipReason::TooLarge,
        SkipReason::TagsTooLarge,
        SkipReason::Partial,
        SkipReason::Disk,
        SkipReason::FillBuffer,
    ];
    let stored = stored.into_iter().map(|basis| (true, basis.reason()));
    stored.chain(skipped.into_iter().map(|reason| (false, reason.reason())))
}

impl Basis {
    pub fn as_str(self) -> &'static str {
        self.reason().word
    }

    pub fn reason(self) -> Reason {
        let (word, source, meaning) = match self {
            Basis::SMaxage => {
                ("s-maxage", "RFC 9111 section 5.2.2.10", "the response states its lifetime in shared caches: s-maxage")
            }
            Basis::MaxAge => ("max-age", "RFC 9111 section 5.2.2.1", "the response states its lifetime: max-age"),
            Basis::Expires => {
                ("expires", "RFC 9111 section 5.3", "the response states when it ends: Expires, less Date")
            }
            Basis::NoCache => {
                ("no-cache", "RFC 9111 section 5.2.2.4", "no-cache: it is kept, but validated before each use")
            }
            Basis::DefaultTtl => {
                ("default-ttl", "default_ttl of the route", "the response states no lifetime, the route gives it one")
            }
            Basis::NegativeTtl => (
                "negative-ttl",
                "negative_ttl of the route",
                "a redirect or an error, for which the route has a lifetime of its own",
            ),
            Basis::Heuristic => (
                "heuristic",
                "RFC 9111 section 4.2.2",
                "the response states no lifetime: a part of the time for which it had not changed (Last-Modified); never for a request that may tell who asks",
            ),
            Basis::Validator => (
                "validator",
                "RFC 9111 section 4.3",
                "the response states no lifetime, but has a validator: it is kept and validated before each use",
            ),
            Basis::Forced => {
                ("forced", "mode = \"force\" of the route", "the route's ttl, whatever the response states")
            }
        };
        Reason { word, meaning, source }
    }
}

impl SkipReason {
    pub fn as_str(self) -> &'static str {
        self.reason().word
    }

    pub fn reason(self) -> Reason {
        let (word, source, meaning) = match self {
            SkipReason::NoStore => ("no-store", "RFC 9111 section 5.2.2.5", "the response forbids it: no-store"),
            SkipReason::ClientNoStore => {
                ("client-no-store", "RFC 9111 section 5.2.1.5", "the request asks for nothing to be stored: no-store")
            }
            SkipReason::MustUnderstand => (
                "must-understand",
                "RFC 9111 section 5.2.2.3",
                "must-understand, and the status is none that this cache understands",
            ),
            SkipReason::Private => ("private", "RFC 9111 section 5.2.2.7", "it is for one user: private"),
            SkipReason::Authorization => (
                "authorization",
                "RFC 9111 section 3.5",
                "the request had Authorization, and the response has none of public, s-maxage and must-revalidate",
            ),
            SkipReason::SetCookie => {
                ("set-cookie", "RFC 9111 section 7.3", "it sets a cookie, and the route does not say store_set_cookie")
            }
            SkipReason::VaryStar => (
                "vary-star",
                "RFC 9111 section 4.1",
                "Vary is * or not a list of names: no other request can select it",
            ),
            SkipReason::Status => (
                "status",
                "RFC 9111 section 3",
                "the status is stored only with a stated lifetime or public, 401, 403, 407 and 429 only with public or by negative_ttl, and some (206, 304, 416) not at all",
            ),
            SkipReason::RequestForm => (
                "request-form",
                "a limit of Seawall's",
                "400, 413, 414, 431 or 501, and the request's form may be why: a head above 4 KiB, bytes outside printable ASCII, a field that overrides something",
            ),
            SkipReason::Visitor => (
                "visitor",
                "RFC 9111 section 4.2.2",
                "nothing says for how long it is fresh, and the request had a cookie or another field that may tell who asks",
            ),
            SkipReason::NoFreshness => (
                "no-freshness",
                "RFC 9111 section 3",
                "nothing says for how long it is fresh: neither the response nor the route, and there is no validator",
            ),
            SkipReason::Expired => (
                "expired",
                "RFC 9111 section 4.2",
                "it has no lifetime, and without a validator or a stale window of its own there is no use for it",
            ),
            SkipReason::TooLarge => {
                ("too-large", "max_object in [cache.memory] and [cache.disk]", "the body is larger than is stored")
            }
            SkipReason::Disk => (
                "disk",
                "the state of the disk tier",
                "the body is too large for memory, and no disk could take it; see GET /v1/status for why",
            ),
            SkipReason::FillBuffer => (
                "fill-buffer",
                "fill_buffer in [cache.memory]",
                "so much was on its way into the cache at that moment that nothing more of it could be kept",
            ),
            SkipReason::TagsTooLarge => (
                "tags-too-large",
                "a limit of Seawall's",
                "it has more than 16 KiB of tags or one longer than 1,024 bytes: with a tag lost it could not be purged",
            ),
            SkipReason::Partial => {
                ("partial", "RFC 9111 section 3.3", "it is a part (206) that cannot be joined to others")
            }
        };
        Reason { word, meaning, source }
    }

    /// Whether any other request for the key would find the same. Only then is the key remembered as not
    /// cacheable; otherwise one visitor's `Authorization` would switch caching off for all.
    pub fn concerns_every_request(self) -> bool {
        !matches!(
            self,
            SkipReason::Authorization
                | SkipReason::ClientNoStore
                | SkipReason::RequestForm
                | SkipReason::Disk
                | SkipReason::FillBuffer
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_means_two_things() {
        let mut words: Vec<&str> = all().map(|(_, reason)| reason.word).collect();
        words.sort_unstable();
        let before = words.len();
        words.dedup();
        assert_eq!(words.len(), before);
    }
}

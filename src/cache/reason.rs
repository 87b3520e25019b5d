//! Why a response is stored or not: a closed list of words, the same in `Cache-Status`, metrics, the log, `seawall
//! explain` and the manual (docs/reasons.md).

/// One entry of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reason {
    /// The word.
    pub word: &'static str,
    /// Whose rule it is.
    pub source: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

/// A part of the list: each variant of an enum with its word, whose rule it is, and what it means.
macro_rules! reasons {
    ($(#[$about:meta])* $list:ident {
        $($(#[$note:meta])* $variant:ident: $word:literal, $source:literal, $meaning:literal;)*
    }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $list {
            $($(#[$note])* $variant,)*
        }

        impl $list {
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            pub fn reason(self) -> Reason {
                match self {
                    $(Self::$variant => Reason { word: $word, source: $source, meaning: $meaning },)*
                }
            }

            pub fn as_str(self) -> &'static str {
                self.reason().word
            }
        }
    };
}

pub(super) use reasons;

reasons! {
    /// What a stored response's lifetime rests on.
    #[derive(Default, serde::Serialize, serde::Deserialize)]
    Basis {
        SMaxage: "s-maxage", "RFC 9111 section 5.2.2.10",
            "the response states its lifetime in shared caches: s-maxage";
        #[default]
        MaxAge: "max-age", "RFC 9111 section 5.2.2.1", "the response states its lifetime: max-age";
        Expires: "expires", "RFC 9111 section 5.3", "the response states when it ends: Expires, less Date";
        NoCache: "no-cache", "RFC 9111 section 5.2.2.4", "no-cache: it is kept, but validated before each use";
        DefaultTtl: "default-ttl", "default_ttl of the route",
            "the response states no lifetime, the route gives it one";
        NegativeTtl: "negative-ttl", "negative_ttl or rules of the route",
            "a redirect or an error, for which the route has a lifetime of its own";
        Heuristic: "heuristic", "RFC 9111 section 4.2.2",
            "the response states no lifetime: a part of the time for which it had not changed (Last-Modified); never for a request that may tell who asks";
        Validator: "validator", "RFC 9111 section 4.3",
            "the response states no lifetime, but has a validator: it is kept and validated before each use";
        Forced: "forced", "mode = \"force\" of the route", "the route's ttl, whatever the response states";
        Rule: "rule", "rules of the route", "a rule of the route gives it a lifetime, whatever the response states";
    }
}

reasons! {
    /// Why a response is not stored.
    SkipReason {
        NoStore: "no-store", "RFC 9111 section 5.2.2.5", "the response forbids it: no-store";
        ClientNoStore: "client-no-store", "RFC 9111 section 5.2.1.5",
            "the request asks for nothing to be stored: no-store";
        MustUnderstand: "must-understand", "RFC 9111 section 5.2.2.3",
            "must-understand, and the status is none that this cache understands";
        Condition: "condition", "no_store of the route", "the route's no_store is true of the response";
        Private: "private", "RFC 9111 section 5.2.2.7", "it is for one user: private";
        Authorization: "authorization", "RFC 9111 section 3.5",
            "the request had Authorization, and the response has none of public, s-maxage and must-revalidate";
        SetCookie: "set-cookie", "RFC 9111 section 7.3",
            "it sets a cookie, and the route does not say store_set_cookie";
        VaryStar: "vary-star", "RFC 9111 section 4.1",
            "Vary is * or not a list of names: no other request can select it";
        Status: "status", "RFC 9111 section 3",
            "the status is stored only with a stated lifetime or public, 401, 403, 407 and 429 only with public or by negative_ttl, 304 and 416 not at all";
        RequestForm: "request-form", "a limit of Seawall's",
            "400, 413, 414, 431 or 501, and the request's form may be why: a head above 4 KiB, bytes outside printable ASCII, a field that overrides something";
        NoFreshness: "no-freshness", "RFC 9111 section 3",
            "nothing says for how long it is fresh: neither the response nor the route, and there is no validator";
        /// It is not kept for its validator either.
        Visitor: "visitor", "RFC 9111 section 4.2.2",
            "nothing says for how long it is fresh, and the request had a cookie or another field that may tell who asks";
        Expired: "expired", "RFC 9111 section 4.2",
            "it has no lifetime, and without a validator or a stale window of its own there is no use for it";
        TooLarge: "too-large", "max_object in [cache.memory] and [cache.disk], \"memory\" of the site", "the body is larger than is stored";
        TagsTooLarge: "tags-too-large", "a limit of Seawall's",
            "it has more than 16 KiB of tags or one longer than 1,024 bytes: with a tag lost it could not be purged";
        Partial: "partial", "RFC 9111 section 3.3", "it is a part (206) that cannot be joined to others";
        Disk: "disk", "the state of the disk tier",
            "the body is too large for memory, and no disk could take it; see GET /v1/status for why";
        FillBuffer: "fill-buffer", "fill_buffer in [cache.memory]",
            "so much was on its way into the cache at that moment that nothing more of it could be kept";
    }
}

/// Every reason, those for storing first.
pub(crate) fn all() -> impl Iterator<Item = (bool, Reason)> {
    let stored = Basis::ALL.iter().map(|basis| (true, basis.reason()));
    stored.chain(SkipReason::ALL.iter().map(|skipped| (false, skipped.reason())))
}

impl SkipReason {
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

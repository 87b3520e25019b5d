//! Names of a client's fields, by what they may bring about on their way to an origin. In these lists a name that ends with a
//! hyphen stands for all that begin with it, one that begins with a hyphen for all that end with it.

use crate::config::model;

/// Fields by which some frameworks and servers let a request be another than its line says: its host, path, method or
/// scheme. No cache key has them, so on a cached route one visitor could have another page stored for all.
pub(crate) static OVERRIDING_FIELDS: Names = Names::new(&[
    // any of them
    "-override",
    "x-original-",
    // host
    "x-backend-host",
    "proxy-host",
    "x-real-host",
    "x-forwarded-", // host, path, uri, prefix, scheme and more; the node writes its own
    // path
    "x-envoy-original-",
    "x-rewrite-",
    "x-override-",
    "x-request-uri",
    "request-uri",
    "x-proxy-url",
    "x-script-name",
    "x-http-destinationurl",
    "base-url",
    // what frameworks tell themselves of a request
    "x-middleware-",
    "x-invoke-",
    "x-matched-path",
    "x-now-route-matches",
    "x-prerender-revalidate",
    "x-nextjs-rewritten-path",
    // method
    "x-http-method",
    // scheme
    "x-scheme",
    "x-proto",
    "fastly-ssl",
    "x-arr-ssl",
    "cloudfront-forwarded-proto",
    "x-https",
]);

/// Fields by which proxies in front assert who the client is or where it comes from, unkeyed as well.
pub(crate) static IDENTITY_FIELDS: Names = Names::new(&[
    // its address
    "client-ip",
    "-client-ip",
    "x-originating-ip",
    "forwarded-for",
    "x-forward-for",
    "cdn-src-ip",
    "x-proxyuser-ip",
    "x-custom-ip-authorization",
    "x-envoy-external-address",
    "x-envoy-peer-",
    "cf-connecting-",
    "cf-pseudo-",
    "x-appengine-",
    "x-azure-",
    // where it is
    "cf-ipcountry",
    "cf-ipcity",
    "cf-ipcontinent",
    "cf-iplatitude",
    "cf-iplongitude",
    "cloudfront-viewer-",
    "fastly-client-",
    "x-client-geo-",
    "x-country",
    "x-country-",
    "x-geo-",
    "x-geoip-",
    "x-nf-geo",
    "x-vercel-ip-",
    // what it is
    "cf-visitor",
    "cloudfront-is-",
    "x-device",
    "x-device-class", // the node's own, where a route has `device`
    "x-ua-device",
    // its certificate
    "ssl-",
    "x-ssl-",
    "-client-cert",
    "x-client-verify",
    "x-client-dn",
    "x-tls-client-",
    // who it is
    "cf-access-",
    "remote-",
    "x-remote-",
    "x-user",
    "x-user-id",
    "x-user-name",
    "x-user-email",
    "x-webauth-",
    "x-auth-request-",
    "x-authenticated-",
    "x-authentik-",
    "x-amzn-oidc-",
    "x-goog-authenticated-",
    "x-ms-client-principal",
]);

/// Fields of a client that do not tell who it is: what browsers and proxies say of what they want, how they want it and which
/// way it went. Any other may be a credential.
pub(crate) static IMPERSONAL_FIELDS: Names = Names::new(&[
    "host",
    "user-agent",
    "referer",
    "origin",
    "date",
    "pragma",
    "cache-control",
    "range",
    "if-",
    "accept",
    "accept-",
    "sec-",
    "dnt",
    "save-data",
    "priority",
    "purpose",
    "x-purpose",
    "x-moz",
    "x-requested-with",
    "upgrade-insecure-requests",
    "device-memory",
    "dpr",
    "width",
    "viewport-width",
    "downlink",
    "ect",
    "rtt",
    "early-data",
    "te",
    "via",
    "cdn-loop",
    "max-forwards",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    // of one connection, and of a body
    "connection",
    "keep-alive",
    "proxy-connection",
    "upgrade",
    "http2-settings",
    "trailer",
    "transfer-encoding",
    "content-",
    "expect",
    // what traces a request
    "traceparent",
    "tracestate",
    "request-id",
    "x-request-id",
    "x-correlation-id",
    "x-amzn-trace-id",
    "x-cloud-trace-context",
    "b3",
    "x-b3-",
]);

/// What frames a body is said anew of what is sent. Servers that read a name's underscore as a hyphen, as CGI does, must not take
/// another length from a name that looks like one of these.
pub(crate) static FRAMING_FIELDS: Names = Names::new(&["content-length", "transfer-encoding", "expect"]);

/// Fields that are no trailers: framing, routing, conditions, credentials, and how content is to be handled.
pub(crate) static NO_TRAILERS: Names = Names::new(&[
    "content-", // length, encoding, type, range
    "transfer-encoding",
    "connection",
    "keep-alive",
    "proxy-",
    "upgrade",
    "te",
    "trailer",
    "host",
    "if-",
    "range",
    "expect",
    "max-forwards",
    "authorization",
    "www-authenticate",
    "cookie",
    "set-cookie",
    "age",
    "cache-",
    "date",
    "expires",
    "location",
    "vary",
    "retry-after",
    "via",
    "cdn-loop",
]);

/// What origins tell their own proxy.
pub(crate) static PROXYS_OWN: Names = Names::new(&["x-accel-expires", "surrogate-control"]);

/// What tells of the client's connection: the node writes its own.
pub(crate) static FORWARDING_FIELDS: Names = Names::new(model::FORWARDING_FIELDS);

/// Those of them that every proxy writes.
pub(crate) static USUAL_FORWARDING: Names = Names::new(&["x-forwarded-for", "x-forwarded-proto"]);

/// A list of names.
pub(crate) struct Names {
    all: &'static [&'static str],
    /// A bit for each byte that a name, or a beginning, in it begins with; and for each that an end ends with. Most names that are
    /// looked for are in no list, and most of these are told by that.
    begin: u32,
    end: u32,
}

const fn bit(byte: u8) -> u32 {
    1 << (byte % 32)
}

impl Names {
    const fn new(all: &'static [&'static str]) -> Self {
        let (mut begin, mut end, mut at) = (0, 0, 0);
        while at < all.len() {
            let name = all[at].as_bytes();
            match name[0] {
                b'-' => end |= bit(name[name.len() - 1]),
                first => begin |= bit(first),
            }
            at += 1;
        }
        Names { all, begin, end }
    }

    fn may_have(&self, name: &str) -> bool {
        let (first, last) = (name.bytes().next().unwrap_or_default(), name.bytes().next_back().unwrap_or_default());
        self.begin & bit(first) != 0 || self.end & bit(last) != 0
    }

    fn lists(&self, name: &str) -> bool {
        self.all.iter().any(|listed| match (listed.starts_with('-'), listed.ends_with('-')) {
            (true, _) => name.ends_with(listed),
            (_, true) => name.starts_with(listed),
            _ => name == *listed,
        })
    }
}

/// Whether a list has a name, or a beginning or an end of it that is marked by a hyphen. Servers that read an underscore as a
/// hyphen find it by that, too.
pub(crate) fn is_listed(name: &str, names: &Names) -> bool {
    names.may_have(name) && (names.lists(name) || name.contains('_') && names.lists(&name.replace('_', "-")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_list_has_is_found_in_it_however_it_is_spelt() {
        let lists = [
            &OVERRIDING_FIELDS,
            &IDENTITY_FIELDS,
            &IMPERSONAL_FIELDS,
            &FRAMING_FIELDS,
            &NO_TRAILERS,
            &PROXYS_OWN,
            &FORWARDING_FIELDS,
            &USUAL_FORWARDING,
        ];
        for names in lists {
            for listed in names.all {
                let name = match (listed.starts_with('-'), listed.ends_with('-')) {
                    (true, _) => format!("x{listed}"),
                    (_, true) => format!("{listed}x"),
                    _ => (*listed).to_owned(),
                };
                assert!(is_listed(&name, names) && is_listed(&name.replace('-', "_"), names), "{name}");
            }
            for other in ["", "-", "_", "x", "zz", "x-nothing", "a_b"] {
                assert!(!is_listed(other, names), "{other}");
            }
        }
    }
}

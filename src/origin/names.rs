//! Names of a client's fields, by what they may bring about on their way to an origin. In these lists a name that ends with a
//! hyphen stands for all that begin with it, one that begins with a hyphen for all that end with it.

/// Fields by which some frameworks and servers let a request be another than its line says: its host, path, method or
/// scheme. No cache key has them, so on a cached route one visitor could have another page stored for all.
pub(crate) static OVERRIDING_FIELDS: &[&str] = &[
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
];

/// Fields by which proxies in front assert who the client is or where it comes from, unkeyed as well.
pub(crate) static IDENTITY_FIELDS: &[&str] = &[
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
];

/// Fields of a client that do not tell who it is: what browsers and proxies say of what they want, how they want it and which
/// way it went. Any other may be a credential.
pub(crate) static IMPERSONAL_FIELDS: &[&str] = &[
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
];

/// What frames a body is said anew of what is sent. Servers that read a name's underscore as a hyphen, as CGI does, must not take
/// another length from a name that looks like one of these.
pub(crate) static FRAMING_FIELDS: &[&str] = &["content-length", "transfer-encoding", "expect"];

/// Fields that are no trailers: framing, routing, conditions, credentials, and how content is to be handled.
pub(crate) static NO_TRAILERS: &[&str] = &[
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
    "cdn-loop",
];

/// What origins tell their own proxy.
pub(crate) static PROXYS_OWN: &[&str] = &["x-accel-expires", "surrogate-control"];

/// Whether a list has a name, or a beginning or an end of it that is marked by a hyphen.
pub(crate) fn is_listed(name: &str, names: &[&str]) -> bool {
    let lists = |name: &str| {
        names.iter().any(|listed| match (listed.starts_with('-'), listed.ends_with('-')) {
            (true, _) => name.ends_with(listed),
            (_, true) => name.starts_with(listed),
            _ => name == *listed,
        })
    };
    lists(name) || name.contains('_') && lists(&name.replace('_', "-"))
}

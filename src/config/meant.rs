//! What an operator may have meant by a key that a table does not have: the name of another proxy's, or a key of another table.

/// What others call it, and which keys that may be here: the first that the table knows.
const OTHER_NAMES: [(&[&str], &[&str]); 25] = [
    (&["gzip", "brotli", "zstd", "compression", "encode"], &["compress", "compress_passed"]),
    (&["gzip_types", "compression_types"], &["compress_types"]),
    (&["gzip_min_length", "min_length", "minimum_length"], &["compress_min_size"]),
    (&["maxconn", "max_conn", "max_conns", "limit_conn", "connection_limit"], &["max_requests", "max_connections"]),
    (&["max_memory", "memory_size", "cache_size"], &["memory", "max_size"]),
    (&["proxy_protocol", "accept_proxy", "accept-proxy", "send_proxy"], &["proxy_from"]),
    (&["permissions", "chmod"], &["mode"]),
    (&["ssl", "https"], &["tls"]),
    (&["ssl_protocols", "ssl-min-ver", "min_version"], &["tls_versions"]),
    (&["ssl_ciphers", "ciphers"], &["tls_ciphers"]),
    (&["server_name", "domain", "domains", "host"], &["hosts"]),
    (&["upstream", "backend", "default_backend", "proxy_pass", "service"], &["pool"]),
    (&["server", "servers", "upstreams", "backends"], &["origins"]),
    (&["location", "url", "uri", "prefix"], &["path"]),
    (&["bind", "port", "listen"], &["address"]),
    (&["certificate", "ssl_certificate", "cert_file"], &["cert"]),
    (&["ssl_certificate_key", "key_file", "private_key"], &["key"]),
    (&["algorithm", "lb_policy", "policy", "balancer"], &["balance"]),
    (&["set_real_ip_from", "real_ip_from", "trusted_ips"], &["trusted_proxies"]),
    (&["real_ip_header"], &["client_ip_header"]),
    (&["client_max_body_size", "max_body_size"], &["max_body"]),
    (&["proxy_read_timeout", "timeout_server"], &["read_timeout"]),
    (&["purge_acl", "purgers", "allow_purge"], &["purge_from"]),
    (&["grace", "swr"], &["stale_while_revalidate"]),
    (&["proxy_cache_valid"], &["default_ttl"]),
];

/// Keys by the tables that have them.
const HOMES: [(&[&str], &str); 8] = [
    (&["hosts", "memory", "max_requests", "purge_from", "hsts", "canonical_host", "https"], "a site, [site.NAME]"),
    (&["compress_passed", "when", "redirect", "respond", "rewrite"], "a route, [[site.NAME.route]], or in defaults"),
    (
        &["compress", "compress_types", "compress_min_size", "default_ttl", "negative_ttl", "slice", "bypass"],
        "the cache of a route: cache = { mode = \"respect\", ... }; those of compression in defaults, too",
    ),
    (&["origins", "health", "fallback", "retries", "balance"], "a pool, [pool.NAME]"),
    (&["proxy_from", "tls_versions", "tls_ciphers", "protocols"], "a listener, [[listen]]"),
    (&["trusted_proxies", "client_ip_header", "state_dir", "country_file", "asn_file"], "[node]"),
    (&["max_connections", "max_prefix_share", "max_compressions", "max_fills", "min_rate"], "[limits]"),
    (&["max_object", "fill_buffer", "eviction"], "[cache.memory]"),
];

/// What needs more words than one: the name, a key by which its table is known, and what to write.
const NOTES: [(&[&str], &str, &str); 31] = [
    (
        &["gzip", "brotli", "zstd", "compression", "encode"],
        "compress_passed",
        "write compress = [\"br\", \"gzip\"] in \"cache\", for what is stored, and compress_passed = [\"br\", \"gzip\"] here, for what is not",
    ),
    (
        &["group", "owner", "user"],
        "proxy_from",
        "a socket has the group of its directory, if that has the setgid bit: chgrp it, and chmod g+s",
    ),
    (
        &["cert", "key", "certificate", "ssl_certificate", "tls_cert", "tls_key"],
        "proxy_from",
        "certificates are for all listeners: [[certificate]] with cert and key",
    ),
    (
        &["max_connections"],
        "max_requests",
        "that is for the whole node, in [limits]; for one site there is max_requests",
    ),
    (
        &["paths"],
        "when",
        "a route has one path; what several have in common is written once in defaults, or in a set (use)",
    ),
    (&["location", "locations", "routes"], "hosts", "write [[site.NAME.route]] with path and pool for each"),
    (
        &["headers", "add_header", "header", "response_headers", "set_header"],
        "rewrite",
        "write response = { set = { X-Name = \"value\" } } for what clients get, request = { ... } for what origins get",
    ),
    (&["headers", "header"], "body", "write fields = { X-Name = \"value\" }"),
    (&["https_redirect", "redirect_https", "force_https", "ssl_redirect"], "hosts", "write https = \"redirect\""),
    (
        &["strip_prefix", "strip_path", "prefix"],
        "set_query",
        "with path = \"/shop/*\", {1} is what is behind: to = \"/{1}\"",
    ),
    (
        &["proxy_ssl_verify", "insecure", "tls_verify", "ssl_verify"],
        "origins",
        "write verify = false, beside tls = true",
    ),
    (
        &["valid", "max_age", "ttl_default", "expires"],
        "negative_ttl",
        "write default_ttl, or mode = \"force\" with ttl",
    ),
    (
        &["max_conns", "maxconn", "max_connections", "queue"],
        "origins",
        "connections of a pool cannot be bounded yet; max_requests of a site bounds what is with its origins",
    ),
    (&["max_fails", "fail_timeout", "outlier_detection"], "origins", "write health = { path = \"/health\" }"),
    (&["rate_limit", "limit_req", "rate"], "hosts", "there are no limits of rates yet"),
    (&["worker_processes", "workers", "nbthread"], "drain_timeout", "write threads"),
    (&["when", "if"], "bypass", "write bypass = '...' for what goes past the cache; \"when\" is a key of the route"),
    (&["if", "match", "matcher", "acl", "condition"], "rewrite", "write when = 'header[\"X-Name\"] == \"value\"'"),
    (&["return"], "rewrite", "write redirect = { to = \"...\" }, or respond = { status = 200, body = \"...\" }"),
    (&["strip_prefix", "strip_path", "handle_path"], "rewrite", "with path = \"/shop/*\": rewrite = { to = \"/{1}\" }"),
    (
        &["proxy_set_header", "header_up", "proxy_headers"],
        "rewrite",
        "write request = { set = { X-Name = \"value\" } }; X-Forwarded-* and Via are sent anyway",
    ),
    (&["error_page", "error_pages", "handle_errors"], "rewrite", "pages are a site's: [[site.NAME.error_page]]"),
    (&["pool", "upstream", "proxy_pass", "backend"], "hosts", "a route has it: [[site.NAME.route]] with path and pool"),
    (&["health_uri", "health_path", "health_check", "check"], "origins", "write health = { path = \"/health\" }"),
    (&["backup"], "weight", "origins for when others fail are a pool of their own, which \"fallback\" names"),
    (&["sticky", "session_affinity", "cookie"], "origins", "write balance = \"hash\" and hash = \"client\""),
    (&["slow_start", "slowstart"], "origins", "origins that come back get their whole share at once"),
    (&["rate_limit", "limit_req", "rate"], "rewrite", "there are no limits of rates yet"),
    (
        &["basic_auth", "auth_basic", "forward_auth", "auth_request"],
        "rewrite",
        "nobody is asked who a client is: by address there are \"allow\" and \"deny\", else the application does it",
    ),
    (&["root", "alias", "file_server", "static"], "rewrite", "write files = \"/srv/www\""),
    (&["try_files"], "rewrite", "write files = { root = \"/srv/www\", try = [\"{path}\", \"/index.html\"] }"),
];

/// Says what is to be written instead; `known`: the keys that the table has.
pub(crate) fn meant(written: &str, known: &[&str]) -> Option<String> {
    let note = NOTES.iter().find(|(names, key, _)| names.contains(&written) && known.contains(key));
    if let Some((.., note)) = note {
        return Some((*note).to_owned());
    }
    let called = OTHER_NAMES.iter().filter(|(names, _)| names.contains(&written)).flat_map(|(_, keys)| *keys);
    if let Some(key) = called.into_iter().find(|key| known.contains(key)) {
        return Some(format!("it is called {key:?} here"));
    }
    let home = HOMES.iter().find(|(keys, _)| keys.contains(&written));
    home.map(|(_, home)| format!("{written:?} belongs in {home}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_others_and_keys_of_other_tables_are_known() {
        for (written, known, hint) in [
            ("maxconn", &["hosts", "max_requests"][..], Some("it is called \"max_requests\" here")),
            ("maxconn", &["max_connections"], Some("it is called \"max_connections\" here")),
            ("maxconn", &["path"], None),
            ("gzip", &["compress"], Some("it is called \"compress\" here")),
            ("max_requests", &["origins"], Some("\"max_requests\" belongs in a site, [site.NAME]")),
            ("max_compressions", &["hosts"], Some("\"max_compressions\" belongs in [limits]")),
            ("group", &["path"], None),
            ("purge_acl", &["purge_from"], Some("it is called \"purge_from\" here")),
            ("nonsense", &["path"], None),
        ] {
            assert_eq!(meant(written, known).as_deref(), hint, "{written} {known:?}");
        }
        for (written, known, word) in [
            ("group", &["address", "mode", "proxy_from"][..], "setgid"),
            ("when", &["mode", "bypass"], "bypass = "),
            ("return", &["path", "rewrite"], "respond = "),
            ("pool", &["hosts"], "[[site.NAME.route]]"),
            ("backup", &["address", "weight"], "fallback"),
            ("root", &["path", "rewrite"], "files = "),
        ] {
            let hint = meant(written, known).unwrap_or_default();
            assert!(hint.contains(word), "{written}: {hint}");
        }
    }
}

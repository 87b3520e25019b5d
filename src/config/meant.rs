//! What an operator may have meant by a key that a table does not have: the name of another proxy's, or a key of another table.

use super::notes::NOTES;

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

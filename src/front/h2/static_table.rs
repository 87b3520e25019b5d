//! The table of HPACK that never changes (RFC 7541 appendix A).

use bytes::Bytes;

/// An entry of either table. Entries may share a name: a client can have many made of one for a byte each.
#[derive(Debug)]
pub(crate) struct Entry {
    pub name: Bytes,
    pub value: Bytes,
}

/// The places of the statuses in the table.
pub(crate) const STATUSES: std::ops::Range<usize> = 7..14;

const fn entry(name: &'static str, value: &'static str) -> Entry {
    Entry { name: Bytes::from_static(name.as_bytes()), value: Bytes::from_static(value.as_bytes()) }
}

/// The number of the first entry of the static table with a name that responses have; 0: none.
pub(crate) fn static_name(name: &[u8]) -> usize {
    match name {
        b"accept-ranges" => 18,
        b"access-control-allow-origin" => 20,
        b"age" => 21,
        b"allow" => 22,
        b"cache-control" => 24,
        b"content-disposition" => 25,
        b"content-encoding" => 26,
        b"content-language" => 27,
        b"content-length" => 28,
        b"content-location" => 29,
        b"content-range" => 30,
        b"content-type" => 31,
        b"date" => 33,
        b"etag" => 34,
        b"expires" => 36,
        b"last-modified" => 44,
        b"link" => 45,
        b"location" => 46,
        b"refresh" => 52,
        b"retry-after" => 53,
        b"server" => 54,
        b"set-cookie" => 55,
        b"strict-transport-security" => 56,
        b"vary" => 59,
        b"via" => 60,
        b"www-authenticate" => 61,
        _ => 0,
    }
}

pub(crate) static STATIC: [Entry; 61] = [
    entry(":authority", ""),
    entry(":method", "GET"),
    entry(":method", "POST"),
    entry(":path", "/"),
    entry(":path", "/index.html"),
    entry(":scheme", "http"),
    entry(":scheme", "https"),
    entry(":status", "200"),
    entry(":status", "204"),
    entry(":status", "206"),
    entry(":status", "304"),
    entry(":status", "400"),
    entry(":status", "404"),
    entry(":status", "500"),
    entry("accept-charset", ""),
    entry("accept-encoding", "gzip, deflate"),
    entry("accept-language", ""),
    entry("accept-ranges", ""),
    entry("accept", ""),
    entry("access-control-allow-origin", ""),
    entry("age", ""),
    entry("allow", ""),
    entry("authorization", ""),
    entry("cache-control", ""),
    entry("content-disposition", ""),
    entry("content-encoding", ""),
    entry("content-language", ""),
    entry("content-length", ""),
    entry("content-location", ""),
    entry("content-range", ""),
    entry("content-type", ""),
    entry("cookie", ""),
    entry("date", ""),
    entry("etag", ""),
    entry("expect", ""),
    entry("expires", ""),
    entry("from", ""),
    entry("host", ""),
    entry("if-match", ""),
    entry("if-modified-since", ""),
    entry("if-none-match", ""),
    entry("if-range", ""),
    entry("if-unmodified-since", ""),
    entry("last-modified", ""),
    entry("link", ""),
    entry("location", ""),
    entry("max-forwards", ""),
    entry("proxy-authenticate", ""),
    entry("proxy-authorization", ""),
    entry("range", ""),
    entry("referer", ""),
    entry("refresh", ""),
    entry("retry-after", ""),
    entry("server", ""),
    entry("set-cookie", ""),
    entry("strict-transport-security", ""),
    entry("transfer-encoding", ""),
    entry("user-agent", ""),
    entry("vary", ""),
    entry("via", ""),
    entry("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_numbers_of_their_first_entries() {
        for (place, Entry { name, .. }) in STATIC.iter().enumerate() {
            let index = static_name(name);
            assert!(index == 0 || index == place + 1, "{name:?}");
        }
    }
}

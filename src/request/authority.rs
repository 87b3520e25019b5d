//! Host and port as requests name them (RFC 9110 section 7.2).

use std::borrow::Cow;

/// The longest host name of DNS (RFC 1035 section 2.3.4), with room for an IPv6 literal.
const MAX_HOST: usize = 255;

/// Splits an authority into host and port and checks both. The host comes back lower-case, without a
/// final dot and without the port. `None` means that it is not a valid authority.
///
/// RFC 9112 section 3.2: a server must refuse a `Host` with an invalid value.
pub(crate) fn parse_authority(authority: &str) -> Option<(Cow<'_, str>, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let end = rest.find(']')?;
            rest[..end].parse::<std::net::Ipv6Addr>().ok()?;
            (&authority[..end + 2], &rest[end + 1..])
        }
        None => {
            let end = memchr::memchr(b':', authority.as_bytes()).unwrap_or(authority.len());
            let host = &authority[..end];
            if !is_reg_name(host) {
                return None;
            }
            (host.strip_suffix('.').unwrap_or(host), &authority[end..])
        }
    };
    if host.is_empty() || host.len() > MAX_HOST {
        return None;
    }
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => None,
        None => return None,
        Some("") => None,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Some(digits.parse().ok()?),
        Some(_) => return None,
    };
    let host = match host.bytes().fold(false, |found, byte| found | byte.is_ascii_uppercase()) {
        true => Cow::Owned(host.to_ascii_lowercase()),
        false => Cow::Borrowed(host),
    };
    Some((host, port))
}

/// Letters, digits, `-`, `_` and dots between non-empty labels: what host names on the Web consist of.
/// Percent-encoding and sub-delims, which RFC 3986 would allow, name no host and are refused.
fn is_reg_name(host: &str) -> bool {
    // Byte by byte: each request's host goes through here.
    let mut label_is_empty = true;
    for byte in host.strip_suffix('.').unwrap_or(host).bytes() {
        match byte {
            b'.' if label_is_empty => return false,
            b'.' => label_is_empty = true,
            byte if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') => label_is_empty = false,
            _ => return false,
        }
    }
    !label_is_empty
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities() {
        for (text, expected) in [
            ("example.com", Some(("example.com", None))),
            ("Example.COM:8443", Some(("example.com", Some(8443)))),
            ("example.com.", Some(("example.com", None))),
            ("example.com:", Some(("example.com", None))),
            ("[::1]:80", Some(("[::1]", Some(80)))),
            ("a_b-c.example", Some(("a_b-c.example", None))),
            ("", None),
            (":80", None),
            (".", None),
            ("a..b", None),
            ("a b", None),
            ("a/b", None),
            ("user@host", None),
            ("a,b", None),
            ("%65xample.com", None),
            ("example.com:99999", None),
            ("example.com:8x", None),
            ("example.com:+80", None),
            ("[::1", None),
            ("[zz]", None),
            ("[::1]x", None),
        ] {
            let parsed = parse_authority(text);
            assert_eq!(parsed.as_ref().map(|(host, port)| (host.as_ref(), *port)), expected, "{text}");
        }
    }
}

//! Sessions that stay at their origin: a cookie of the node's own says which one, signed, so that no client chooses.

use http::header;
use ring::hmac;

use crate::config::model::Sticky as Config;
use crate::config::read::Words;
use crate::request::FieldLines;

/// Hexadecimal digits of an origin's hash, and of what it is signed by.
const IDENTITY: usize = 16;
const SIGNATURE: usize = 32;

/// What a pool's cookie is made and read with. An origin is known by the hash of its address: the same after a restart, after a
/// reload, and on every node that has the key.
#[derive(Debug)]
pub(crate) struct Sticky {
    name: Box<str>,
    /// With `=`, as it stands in a `Cookie` field.
    prefix: Box<[u8]>,
    attributes: Box<str>,
    key: hmac::Key,
    pool: Box<str>,
}

impl Sticky {
    pub(super) fn new(config: &Config, pool: &str) -> Self {
        let max_age = config.max_age.map(|age| format!("; Max-Age={}", age.as_secs())).unwrap_or_default();
        Sticky {
            name: config.cookie.as_str().into(),
            prefix: format!("{}=", config.cookie).into_bytes().into(),
            attributes: format!("; Path=/{max_age}; HttpOnly; SameSite={}", config.same_site.as_str()).into(),
            key: hmac::Key::new(hmac::HMAC_SHA256, config.key.as_bytes()),
            pool: pool.into(),
        }
    }

    /// The origin that a `Cookie` field names. One that is not signed by this key for this pool names none.
    pub(crate) fn origin_of(&self, cookies: &[u8]) -> Option<u64> {
        // There may be several of the name: of another path, or of a domain above.
        let values =
            cookies.split(|byte| *byte == b';').filter_map(|pair| pair.trim_ascii().strip_prefix(&*self.prefix));
        values.filter_map(|value| self.verified(value)).next()
    }

    fn verified(&self, value: &[u8]) -> Option<u64> {
        let (identity, signature) = std::str::from_utf8(value).ok()?.split_at_checked(IDENTITY)?;
        let is_hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if signature.len() != SIGNATURE || !is_hex(identity) || !is_hex(signature) {
            return None;
        }
        let identity = u64::from_str_radix(identity, 16).ok()?;
        // Compared by what is signed of it again: how long that takes tells nothing of where they differ.
        let tag = |text: &str| hmac::sign(&self.key, text.as_bytes());
        (tag(signature).as_ref() == tag(&self.signature(identity)).as_ref()).then_some(identity)
    }

    /// The `Set-Cookie` for an origin; `is_secure`: the client has come by HTTPS.
    pub(crate) fn set_cookie(&self, identity: u64, is_secure: bool) -> String {
        let secure = if is_secure { "; Secure" } else { "" };
        format!("{}={identity:016x}{}{}{secure}", self.name, self.signature(identity), self.attributes)
    }

    /// Takes the cookie out of what an origin gets: it is between the client and the node.
    pub(crate) fn hide(&self, fields: &mut FieldLines) {
        let is_cookie = |(name, _): &(&str, &[u8])| *name == header::COOKIE.as_str();
        let left = fields.iter().find(is_cookie).and_then(|(_, cookies)| self.without(cookies));
        match left.as_deref() {
            None => {}
            Some(b"") => fields.remove(header::COOKIE.as_str()),
            Some(left) => fields.insert(&header::COOKIE, left),
        }
    }

    /// Cookies without this one; `None`: it is not there.
    pub(crate) fn without(&self, cookies: &[u8]) -> Option<Vec<u8>> {
        let is_other = |pair: &&[u8]| !pair.trim_ascii_start().starts_with(&self.prefix);
        let pairs = cookies.split(|byte| *byte == b';');
        let others: Vec<&[u8]> = pairs.clone().filter(is_other).collect();
        (others.len() < pairs.count()).then(|| others.join(&b';').trim_ascii().to_vec())
    }

    fn signature(&self, identity: u64) -> String {
        let signed = hmac::sign(&self.key, format!("{}\n{identity:016x}", self.pool).as_bytes());
        signed.as_ref()[..SIGNATURE / 2].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::config;

    fn sticky(pool: &str, key: &str) -> Sticky {
        let text = format!(
            "[pool.{pool}]\norigins = [\"127.0.0.1:1\"]\nsticky = {{ cookie = \"at\", key = \"{key}\", max_age = \"1h\" }}\n"
        );
        let pool = &config(&text).pools[0];
        Sticky::new(pool.sticky.as_ref().unwrap(), &pool.name)
    }

    #[test]
    fn only_what_was_signed_here_is_believed() {
        let (own, key) = (sticky("app", "0123456789abcdef"), "0123456789abcdef");
        let set = own.set_cookie(0xfeed, true);
        let (pair, attributes) = set.split_once("; ").unwrap();
        assert_eq!(attributes, "Path=/; Max-Age=3600; HttpOnly; SameSite=Lax; Secure");
        assert!(!own.set_cookie(1, false).contains("Secure"));
        for (cookies, expected) in [
            (pair.to_owned(), Some(0xfeed)),
            (format!("a=1;  {pair} ; b=2"), Some(0xfeed)),
            (format!("at=nonsense; {pair}"), Some(0xfeed)),
            (pair.replace("feed", "beef"), None),
            (format!("{pair}0"), None),
            (pair[..pair.len() - 1].to_owned(), None),
            (pair.to_uppercase().replace("AT=", "at="), None),
            ("at=".to_owned(), None),
            ("at=ä".to_owned(), None),
            (format!("b{pair}"), None),
            (String::new(), None),
        ] {
            assert_eq!(own.origin_of(cookies.as_bytes()), expected, "{cookies}");
        }
        assert_eq!(sticky("other", key).origin_of(pair.as_bytes()), None, "it is another pool's");
        assert_eq!(sticky("app", "0123456789abcdeg").origin_of(pair.as_bytes()), None, "or another key's");
    }

    #[test]
    fn origins_do_not_see_it() {
        let own = sticky("app", "0123456789abcdef");
        for (cookies, expected) in [
            ("at=1", None),
            ("a=1; at=1; b=2", Some("a=1; b=2")),
            ("at=1; b=2", Some("b=2")),
            ("a=1; cat=1", Some("a=1; cat=1")),
        ] {
            let mut fields = FieldLines::default();
            fields.insert(&header::COOKIE, cookies.as_bytes());
            own.hide(&mut fields);
            let left = fields.iter().next().map(|(_, value)| std::str::from_utf8(value).unwrap());
            assert_eq!(left, expected, "{cookies}");
        }
    }
}

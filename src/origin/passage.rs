//! What tells a request that goes in circles (RFC 8586): each node adds itself to `CDN-Loop`, by an identifier that no other
//! has. Names would not do: two nodes in a row may share theirs.

use http::{HeaderName, HeaderValue};

use crate::request::Fields;

/// By which requests that go in circles are told.
pub(crate) const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");

/// What this software calls itself there.
const CDN: &str = "seawall";
/// Nodes that a request may pass, this one included.
const MAX_NODES: usize = 16;

/// How the node tells itself in loops.
#[derive(Debug)]
pub struct Passage {
    id: Box<str>,
    entry: HeaderValue,
}

/// What the client is told of a request that has been here, and of one that has passed too many nodes.
const HERE: &str = "the request has passed this node before: an origin of its pool leads back here";
const TOO_LONG: &str = "the request has passed 16 nodes: they lead to each other";

impl Passage {
    /// `id`: random, of letters and digits.
    pub fn new(id: Box<str>) -> Self {
        let entry = HeaderValue::try_from(format!("{CDN}; node={id}"));
        Passage { id, entry: entry.unwrap_or(HeaderValue::from_static(CDN)) } // letters and digits are no obstacle
    }

    /// The node's entry.
    pub fn cdn_loop(&self) -> &HeaderValue {
        &self.entry
    }

    /// Why a request has gone far enough, if it goes in circles.
    pub fn loops(&self, request: Fields<'_>) -> Option<&'static str> {
        let (mut here, mut nodes) = (false, 0);
        request.for_each(&CDN_LOOP, |line| {
            for entry in line.split(|byte| *byte == b',') {
                let mut parts = entry.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
                let Some(name) = parts.next().filter(|name| !name.is_empty()) else { continue };
                nodes += 1; // whoever's
                here |= name.eq_ignore_ascii_case(CDN.as_bytes())
                    && parts.any(|parameter| parameter.strip_prefix(b"node=") == Some(self.id.as_bytes()));
            }
        });
        match (here, nodes >= MAX_NODES) {
            (true, _) => Some(HERE),
            (false, true) => Some(TOO_LONG),
            (false, false) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    #[test]
    fn loops_are_told_by_the_nodes_own_identifier() {
        let passage = Passage::new("a1".into());
        let others = ["seawall; node=b2"; 15].join(", ");
        for (lines, expected) in [
            (&[][..], None),
            (&["seawall; node=b2"], None),
            (&["seawall; node=a12"], None),
            (&["other; node=a1", ",, ,"], None),
            (&[["cdn1"; 16].join(", ").as_str()], Some(TOO_LONG)),
            (&["other, seawall; node=b2, Seawall;x=y;node=a1"], Some(HERE)),
            (&["other", "seawall; node=a1"], Some(HERE)),
            (&["seawall"], None),
            (&[others.as_str()], None),
            (&[others.as_str(), "seawall; node=c3"], Some(TOO_LONG)),
            (&[others.as_str(), passage.cdn_loop().to_str().unwrap()], Some(HERE)),
        ] {
            let mut fields = HeaderMap::new();
            lines.iter().for_each(|line| _ = fields.append(CDN_LOOP, line.parse().unwrap()));
            assert_eq!(passage.loops(Fields::Map(&fields)), expected, "{lines:?}");
        }
    }
}

//! What each connection and each network has a part in, of what is here for readers alone.

use std::collections::HashMap;
use std::hash::Hash;

use crate::prefix::Prefix;

/// Whose something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Of a client with many holders; 0: it has this one.
    pub connection: usize,
    /// `None`: clients that have it are not one crowd, as those behind a trusted proxy; or there is none.
    pub prefix: Option<Prefix>,
}

/// Bytes by whose they are; who has none is not in it, and what is nobody's is not counted.
#[derive(Debug)]
pub(crate) struct Tally<K>(HashMap<K, u64>);

/// What clients have.
#[derive(Default)]
pub(crate) struct Charges {
    /// Everything that each connection holds, and what of that is pieces.
    pub connections: Tally<usize>,
    pub pieces: Tally<usize>,
    pub networks: Tally<Prefix>,
}

impl Client {
    /// Nobody in particular.
    pub const NONE: Client = Client { connection: 0, prefix: None };

    pub fn connection(self) -> Option<usize> {
        Some(self.connection).filter(|connection| *connection != 0)
    }
}

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Tally(HashMap::new())
    }
}

impl<K: Eq + Hash> Tally<K> {
    pub(crate) fn of(&self, whose: Option<K>) -> u64 {
        whose.and_then(|whose| self.0.get(&whose)).map_or(0, |bytes| *bytes)
    }

    pub(crate) fn add(&mut self, whose: Option<K>, bytes: u64) {
        if let Some(whose) = whose.filter(|_| bytes > 0) {
            *self.0.entry(whose).or_default() += bytes;
        }
    }

    pub(crate) fn subtract(&mut self, whose: Option<K>, bytes: u64) {
        if let Some(whose) = whose
            && let Some(left) = self.0.get_mut(&whose)
        {
            *left = left.saturating_sub(bytes);
            if *left == 0 {
                self.0.remove(&whose);
            }
        }
    }

    /// What all together have above a share each.
    pub(crate) fn above(&self, share: u64) -> u64 {
        self.0.values().map(|bytes| bytes.saturating_sub(share)).sum()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
impl Charges {
    pub(super) fn is_empty(&self) -> bool {
        let Charges { connections, pieces, networks } = self;
        connections.is_empty() && pieces.is_empty() && networks.is_empty()
    }
}

//! What each connection and each network has a part in, of what is here for readers alone.

use std::collections::HashMap;

use crate::prefix::Prefix;

/// Whose something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Of a client with many holders; 0: it has this one.
    pub connection: usize,
    /// `None`: clients that have it are not one crowd, as those behind a trusted proxy; or there is none.
    pub prefix: Option<Prefix>,
}

/// Bytes of one connection: of everything, and of pieces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Charged {
    pub all: u64,
    pub pieces: u64,
}

#[derive(Default)]
pub struct Charges {
    connections: HashMap<usize, Charged>,
    prefixes: HashMap<Prefix, u64>,
    /// What is being fetched for the clients of each network, to be stored in memory.
    fills: HashMap<Prefix, u64>,
}

impl Client {
    /// Nobody in particular.
    pub const NONE: Client = Client { connection: 0, prefix: None };
}

impl Charged {
    pub fn body(bytes: u64) -> Self {
        Charged { all: bytes, pieces: 0 }
    }

    pub fn pieces(bytes: u64) -> Self {
        Charged { all: bytes, pieces: bytes }
    }
}

impl Charges {
    /// `None`: nothing is charged to it.
    pub fn of_connection(&self, connection: usize) -> Option<Charged> {
        self.connections.get(&connection).copied()
    }

    pub fn of_prefix(&self, prefix: Option<Prefix>) -> u64 {
        prefix.and_then(|prefix| self.prefixes.get(&prefix)).map_or(0, |bytes| *bytes)
    }

    pub fn fills_of(&self, prefix: Option<Prefix>) -> u64 {
        prefix.and_then(|prefix| self.fills.get(&prefix)).map_or(0, |bytes| *bytes)
    }

    pub fn all_fills(&self) -> u64 {
        self.fills.values().sum()
    }

    pub fn add_fill(&mut self, prefix: Prefix, bytes: u64) {
        *self.fills.entry(prefix).or_default() += bytes;
    }

    pub fn end_fill(&mut self, prefix: Prefix, bytes: u64) {
        if let Some(of) = self.fills.get_mut(&prefix) {
            *of = of.saturating_sub(bytes);
            if *of == 0 {
                self.fills.remove(&prefix);
            }
        }
    }

    /// What all networks together have above a share each.
    pub fn above(&self, share: u64) -> u64 {
        self.prefixes.values().map(|bytes| bytes.saturating_sub(share)).sum()
    }

    pub fn charge_connection(&mut self, connection: usize, bytes: Charged) {
        if connection != 0 {
            let charged = self.connections.entry(connection).or_default();
            charged.all += bytes.all;
            charged.pieces += bytes.pieces;
        }
    }

    pub fn charge_prefix(&mut self, prefix: Option<Prefix>, bytes: u64) {
        if let Some(prefix) = prefix.filter(|_| bytes > 0) {
            *self.prefixes.entry(prefix).or_default() += bytes;
        }
    }

    pub fn discharge_connection(&mut self, connection: usize, bytes: Charged) {
        if let Some(charged) = self.connections.get_mut(&connection) {
            charged.all = charged.all.saturating_sub(bytes.all);
            charged.pieces = charged.pieces.saturating_sub(bytes.pieces);
            if charged.all == 0 {
                self.connections.remove(&connection);
            }
        }
    }

    pub fn discharge_prefix(&mut self, prefix: Option<Prefix>, bytes: u64) {
        if let Some(prefix) = prefix
            && let Some(charged) = self.prefixes.get_mut(&prefix)
        {
            *charged = charged.saturating_sub(bytes);
            if *charged == 0 {
                self.prefixes.remove(&prefix);
            }
        }
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty() && self.prefixes.is_empty() && self.fills.is_empty()
    }
}

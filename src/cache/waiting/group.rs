//! Those that hold one thing, and which of them have to end where there is no room.

use smallvec::SmallVec;

use crate::clock::ticks;
use crate::prefix::Prefix;

use super::charges::{Charges, Client};
use super::holder::Holding;

/// Milliseconds after which a reader that has taken nothing is stalled.
pub(crate) const STALLED: u64 = 2_000;
/// So is one that holds the same for longer than this and a second for each so many bytes, however often it takes a little.
const PATIENCE: u64 = 10_000;
const BYTES_A_SECOND: u64 = 64 << 10;

/// Those that hold one thing.
pub(crate) struct Group {
    /// Bytes that count in all and in each of the networks, and in each of the connections.
    pub bytes: u64,
    pub charge: u64,
    /// Since when it is held: [`ticks`].
    pub entered: u64,
    pub is_pieces: bool,
    pub holders: SmallVec<[Holding; 1]>,
}

/// Who is to end, where somebody has to.
#[derive(Clone, Copy)]
pub(crate) enum Whose {
    Anybody,
    /// Whoever takes too little: [`ticks`].
    Stalled(u64),
    /// Bodies of which nothing was taken for a while; pieces wait for each other.
    Connection(usize, u64),
    /// Likewise, and pieces that are held for much too long.
    Prefix(Prefix, u64),
}

impl Whose {
    pub(crate) fn has(self, client: Client) -> bool {
        match self {
            Whose::Anybody | Whose::Stalled(_) => true,
            Whose::Connection(connection, _) => client.connection == connection,
            Whose::Prefix(prefix, _) => client.prefix == Some(prefix),
        }
    }

    /// What it is worth if its readers among them end.
    pub(crate) fn frees(self, group: &Group) -> u64 {
        let has_some = || group.holders.iter().any(|holding| self.has(holding.client));
        match self {
            Whose::Anybody => group.bytes,
            Whose::Stalled(now) if group.is_stalled(now, self) => group.bytes,
            Whose::Connection(_, now) if !group.is_pieces && has_some() && group.is_stalled(now, self) => group.charge,
            Whose::Prefix(_, now) if group.is_pieces && has_some() && group.is_overdue(now) => group.bytes,
            Whose::Prefix(_, now) if !group.is_pieces && has_some() && group.is_stalled(now, self) => group.bytes,
            _ => 0,
        }
    }
}

impl Group {
    pub(crate) fn of(bytes: u64) -> Self {
        Group { bytes, charge: bytes, entered: ticks(), is_pieces: false, holders: SmallVec::new() }
    }

    fn charge_connection(&self, client: Client, charges: &mut Charges) {
        charges.connections.add(client.connection(), self.charge);
        charges.pieces.add(client.connection().filter(|_| self.is_pieces), self.charge);
    }

    /// One client more has a part in it, who is to be entered: each of its connection's streams counts, its network once.
    pub(crate) fn charge_to(&self, client: Client, charges: &mut Charges) {
        self.charge_connection(client, charges);
        if !self.has_one_of(client.prefix) {
            charges.networks.add(client.prefix, self.bytes);
        }
    }

    /// All its holders, each client once.
    pub(crate) fn charge_all(&self, charges: &mut Charges) -> Vec<Client> {
        let mut clients: Vec<Client> = self.holders.iter().map(|holding| holding.client).collect();
        clients.iter().for_each(|client| self.charge_connection(*client, charges));
        clients.sort_unstable_by_key(|client| (client.prefix, client.connection));
        clients.dedup();
        let networks = clients.chunk_by(|one, other| one.prefix == other.prefix);
        networks.for_each(|of_one| charges.networks.add(of_one[0].prefix, self.bytes));
        clients
    }

    /// One client less, who has left.
    pub(crate) fn discharge(&self, client: Client, charges: &mut Charges) {
        charges.connections.subtract(client.connection(), self.charge);
        charges.pieces.subtract(client.connection().filter(|_| self.is_pieces), self.charge);
        if !self.has_one_of(client.prefix) {
            charges.networks.subtract(client.prefix, self.bytes);
        }
    }

    fn has_one_of(&self, prefix: Option<Prefix>) -> bool {
        self.holders.iter().any(|holding| holding.client.prefix == prefix)
    }

    /// Whether nothing of it was taken by them for a while, or so little that it is held for much too long.
    fn is_stalled(&self, now: u64, whose: Whose) -> bool {
        self.taken(whose) + STALLED < now || self.is_overdue(now)
    }

    fn is_overdue(&self, now: u64) -> bool {
        self.entered + PATIENCE + self.charge * 1000 / BYTES_A_SECOND < now
    }

    /// When any of them took something last.
    pub(crate) fn taken(&self, whose: Whose) -> u64 {
        let among = self.holders.iter().filter(|holding| whose.has(holding.client));
        among.map(Holding::taken).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::super::holder::Waiter;
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn who_is_stalled() {
        let group = |charge, taken, entered| {
            let one = Waiter::new(Client::NONE);
            one.took_at(taken);
            let holders = smallvec![one.holding()];
            Group { bytes: charge, charge, entered, is_pieces: false, holders }
        };
        for (charge, taken, entered, expected) in [
            (MIB, 98_001, 90_000, false),
            (MIB, 97_999, 97_999, true), // takes nothing
            (128 << 10, 99_999, 88_001, false),
            (128 << 10, 99_999, 87_999, true), // takes a byte now and then
            (7 * MIB, 99_999, 0, false),
        ] {
            let is_stalled = group(charge, taken, entered).is_stalled(100_000, Whose::Anybody);
            assert_eq!(is_stalled, expected, "{charge} {taken} {entered}");
        }
    }
}

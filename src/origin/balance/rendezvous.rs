//! Rendezvous hashing: who a key belongs to, as every node finds it by itself. It knows of nothing but numbers.

/// What a key and a member have to do with each other, by weight: the member with the highest has the key (Thaler and Ravishankar
/// 1998, weighted by -w/ln(h)). When a member goes or comes, only its own share of the keys moves.
pub(crate) fn score(key: u64, identity: u64, weight: u32) -> f64 {
    let mixed = mix(key ^ identity);
    // In (0, 1): the 53 bits a double holds, moved off zero.
    let uniform = ((mixed >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -f64::from(weight) / uniform.ln()
}

/// The finaliser of SplitMix64 (Steele et al. 2014): every input bit moves every output bit.
pub(crate) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Hash of bytes; the same on every node and in every version.
pub(crate) fn hash_bytes(bytes: &[u8]) -> u64 {
    let folded = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    mix(folded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_the_same_everywhere_and_for_ever() {
        // Another number here would move the keys of every pool and fleet with an upgrade.
        assert_eq!(hash_bytes(b"/a"), 0xe37fd2b7554830fb);
        assert_eq!((score(1, 2, 1) * 1e6).round(), 468783.0);
        assert!(score(1, 2, 3) > score(1, 2, 1), "more weight, more keys");
    }
}

//! A small stable hash for identities and request shapes.
//!
//! Seedless on purpose: two proxies, a simulation and a replay must give one
//! tenant the same number. It therefore does not resist somebody who *chooses*
//! colliding names; whoever uses it as a key bounds what a collision can do
//! (colliding tenants share one fair share, nothing more).

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// A running FNV-1a hash with a final mix, so that all 64 bits are usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash(u64);

impl Default for Hash {
    fn default() -> Self {
        Self::new()
    }
}

impl Hash {
    /// The hash of nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self(OFFSET)
    }

    /// Takes in one string. Each string is delimited, so `("a", "bc")` and
    /// `("ab", "c")` differ.
    #[must_use]
    pub fn text(self, text: &str) -> Self {
        let mut state = self.0;
        for byte in text.as_bytes() {
            state = (state ^ u64::from(*byte)).wrapping_mul(PRIME);
        }
        // 0xff occurs in no UTF-8 string.
        Self((state ^ 0xff).wrapping_mul(PRIME))
    }

    /// Takes in one number.
    #[must_use]
    pub const fn number(self, number: u64) -> Self {
        Self(mix(self.0 ^ mix(number)))
    }

    /// The 64-bit result.
    #[must_use]
    pub const fn finish(self) -> u64 {
        mix(self.0)
    }
}

/// The hash of one string.
#[must_use]
pub fn text(text: &str) -> u64 {
    Hash::new().text(text).finish()
}

/// Spreads a number over all 64 bits (the splitmix64 finaliser); bijective, so
/// it adds no collisions of its own.
#[must_use]
pub const fn mix(number: u64) -> u64 {
    let mut state = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_same_in_every_process() {
        // Fixed values: changing them splits the tenants of a rolling upgrade.
        assert_eq!(text(""), 0x01df_27c8_adb0_f2d1);
        assert_eq!(text("system:node:a"), 0x7ec5_856f_285a_b53d);
        assert_eq!(Hash::new().number(7).finish(), 0xe59a_364e_67ad_b0bd);
    }

    #[test]
    fn strings_are_delimited() {
        let split = Hash::new().text("a").text("bc").finish();
        let other = Hash::new().text("ab").text("c").finish();
        assert_ne!(split, other);
    }

    #[test]
    fn close_inputs_differ_in_their_low_and_high_bits() {
        // A table indexes by the low bits, a percentage by the high ones.
        let mut low = std::collections::HashSet::new();
        let mut high = std::collections::HashSet::new();
        for n in 0..256 {
            let hash = text(&format!("node-{n}"));
            low.insert(hash & 0xff);
            high.insert(hash >> 56);
        }
        assert!(low.len() > 120, "{} of 256 low bytes", low.len());
        assert!(high.len() > 120, "{} of 256 high bytes", high.len());
    }
}

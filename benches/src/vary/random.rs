//! Numbers that look random and depend on nothing but where they start. The same start gives the same body again.

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// A sequence of numbers (SplitMix64).
#[derive(Clone, Copy)]
pub(crate) struct Random(u64);

impl Random {
    /// The sequence of `what` in `context`.
    pub(crate) const fn of(context: u64, what: u64) -> Self {
        Self(mix(context, what))
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        scramble(self.0)
    }

    /// A number below `bound`.
    pub(crate) const fn below(&mut self, bound: u64) -> u64 {
        ((self.next() as u128 * bound as u128) >> 64) as u64
    }

    /// A number from 0 up to, but not including, 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// One of `count` by Zipf's law: number 0 is chosen most often, number `n` about `n + 1` times less often.
    pub(crate) fn rank(&mut self, count: u64) -> u64 {
        let rank = ((count as f64 + 1.0).ln() * self.fraction()).exp() as u64;
        rank.saturating_sub(1).min(count.saturating_sub(1))
    }
}

/// One number that stands for both.
pub(super) const fn mix(context: u64, what: u64) -> u64 {
    scramble(scramble(context.wrapping_add(GOLDEN)) ^ what.wrapping_mul(GOLDEN))
}

/// A number that stands for `text` (FNV-1a).
pub(super) fn hash(text: &[u8]) -> u64 {
    text.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3))
}

const fn scramble(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_skewed_and_reach_everybody() {
        let mut random = Random::of(1, 2);
        let mut counts = [0_u32; 100];
        for _ in 0..100_000 {
            counts[usize::try_from(random.rank(100)).unwrap()] += 1;
        }
        assert!(counts.iter().all(|&count| count > 0), "{counts:?}");
        assert!(counts[0] > 10_000 && counts[0] < 20_000, "{}", counts[0]);
        assert!(counts[0] > 5 * counts[9], "{} {}", counts[0], counts[9]);
        assert_eq!(random.rank(1), 0);
    }
}

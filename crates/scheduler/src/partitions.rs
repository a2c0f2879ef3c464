//! Which partitions are in a set, at about one bit each?

/// A set of numbers below a fixed bound: a bitset with summaries above it, so that the least member is found, added and
/// removed in a step per level (three for 262,144 partitions).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Partitions {
    /// `levels[0]` holds the members; bit `i` of `levels[n + 1]` says that word `i` of `levels[n]` is not 0. The last
    /// level is one word.
    levels: Vec<Vec<u64>>,
    bound: u32,
    len: u32,
}

const BITS: usize = u64::BITS as usize;

impl Partitions {
    /// The empty set of numbers below `bound`.
    pub(crate) fn none(bound: u32) -> Self {
        let mut levels = Vec::new();
        let mut words = (bound as usize).div_ceil(BITS).max(1);
        loop {
            levels.push(vec![0; words]);
            if words == 1 {
                return Self { levels, bound, len: 0 };
            }
            words = words.div_ceil(BITS);
        }
    }

    /// The set of all numbers below `bound`.
    pub(crate) fn all(bound: u32) -> Self {
        let mut set = Self::none(bound);
        let mut bits = bound as usize;
        for level in &mut set.levels {
            for word in level.iter_mut().take(bits / BITS) {
                *word = u64::MAX;
            }
            if !bits.is_multiple_of(BITS) {
                level[bits / BITS] = (1 << (bits % BITS)) - 1;
            }
            bits = bits.div_ceil(BITS);
        }
        set.len = bound;
        set
    }

    /// How many members there are.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn bound(&self) -> u32 {
        self.bound
    }

    pub(crate) fn contains(&self, member: u32) -> bool {
        member < self.bound && self.levels[0][member as usize / BITS] & (1 << (member as usize % BITS)) != 0
    }

    /// Adds a number below the bound; says whether it is new. A number beyond it is not added.
    pub(crate) fn insert(&mut self, member: u32) -> bool {
        if member >= self.bound || self.contains(member) {
            return false;
        }
        let mut bit = member as usize;
        for level in &mut self.levels {
            let word = &mut level[bit / BITS];
            let had_members = *word != 0;
            *word |= 1 << (bit % BITS);
            if had_members {
                break;
            }
            bit /= BITS;
        }
        self.len += 1;
        true
    }

    /// Takes a number out; says whether it was in.
    pub(crate) fn remove(&mut self, member: u32) -> bool {
        if !self.contains(member) {
            return false;
        }
        let mut bit = member as usize;
        for level in &mut self.levels {
            let word = &mut level[bit / BITS];
            *word &= !(1 << (bit % BITS));
            if *word != 0 {
                break;
            }
            bit /= BITS;
        }
        self.len -= 1;
        true
    }

    /// The least member.
    pub(crate) fn first(&self) -> Option<u32> {
        if self.len == 0 {
            return None;
        }
        let word = self.levels.iter().rev().fold(0, |at, level| at * BITS + level[at].trailing_zeros() as usize);
        u32::try_from(word).ok()
    }

    /// All members, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> {
        self.levels.first().into_iter().flatten().enumerate().flat_map(|(at, &word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros())?;
                rest &= rest - 1;
                Some((at * BITS) as u32 + bit)
            })
        })
    }

    /// Adds every member of another set of the same bound.
    pub(crate) fn extend(&mut self, other: &Self) {
        other.iter().for_each(|member| _ = self.insert(member));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn all_is_what_inserting_everything_gives() {
        for bound in [0, 1, 63, 64, 65, 4_095, 4_096, 4_097, 262_145] {
            let mut one_by_one = Partitions::none(bound);
            (0..bound).for_each(|member| assert!(one_by_one.insert(member)));
            assert_eq!(Partitions::all(bound), one_by_one, "{bound}");
        }
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_tree_set(bound in 1..9_000_u32, steps in prop::collection::vec((any::<bool>(), 0..9_000_u32), 0..400)) {
            let (mut set, mut model) = (Partitions::none(bound), BTreeSet::new());
            for (insert, member) in steps {
                let member = member % bound;
                if insert {
                    prop_assert_eq!(set.insert(member), model.insert(member));
                } else {
                    prop_assert_eq!(set.remove(member), model.remove(&member));
                }
                prop_assert_eq!(set.first(), model.first().copied());
                prop_assert_eq!(set.len() as usize, model.len());
            }
            prop_assert!(set.iter().eq(model.iter().copied()));
        }
    }
}

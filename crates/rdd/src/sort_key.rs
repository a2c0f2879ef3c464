//! Which eight bytes of a key decide most comparisons?
//!
//! Sorting compares numbers that lie side by side instead of keys that lie anywhere. Which number stands for a key is
//! decided by its type; of types that are not listed here all keys have the same number, and keys are compared.

use std::any::{Any, TypeId};

use bytes::Bytes;

use crate::text::Str;

/// The first eight bytes, as a number that is ordered as they are.
#[inline]
fn bytes(key: &[u8]) -> u64 {
    if let Some(first) = key.first_chunk() {
        return u64::from_be_bytes(*first);
    }
    let mut padded = [0; 8];
    padded[..key.len()].copy_from_slice(key);
    u64::from_be_bytes(padded)
}

macro_rules! prefixes {
    (exact { $($number:ty: $of_number:expr,)* } bytes { $($text:ty: $of_text:expr,)* } arrays { $($length:literal)* }) => {
        /// A number whose order does not contradict that of keys: `a < b` implies `prefix(a) <= prefix(b)`.
        #[inline]
        pub(crate) fn prefix<K: 'static>(key: &K) -> u64 {
            // Every comparison is of two constants: what remains in a program is the one branch for `K`.
            let key = key as &dyn Any;
            $(if let Some(key) = key.downcast_ref::<$number>() { let of: fn($number) -> u64 = $of_number; return of(*key); })*
            $(if let Some(key) = key.downcast_ref::<$text>() { let of: for<'a> fn(&'a $text) -> &'a [u8] = $of_text; return bytes(of(key)); })*
            $(if let Some(key) = key.downcast_ref::<[u8; $length]>() { return bytes(key); })*
            0
        }

        /// Whether keys of this type have prefixes that differ.
        pub(crate) fn has_prefix<K: 'static>() -> bool {
            let id = TypeId::of::<K>();
            is_exact::<K>() $(|| id == TypeId::of::<$text>())* $(|| id == TypeId::of::<[u8; $length]>())*
        }

        /// Whether equal prefixes mean equal keys.
        pub(crate) fn is_exact<K: 'static>() -> bool {
            let id = TypeId::of::<K>();
            false $(|| id == TypeId::of::<$number>())*
        }
    };
}

/// Moves the smallest to 0.
#[inline]
const fn signed(number: i64) -> u64 {
    (number as u64) ^ (1 << 63)
}

prefixes! {
    exact {
        u8: u64::from,
        u16: u64::from,
        u32: u64::from,
        u64: |key| key,
        usize: |key| key as u64,
        i8: |key| signed(i64::from(key)),
        i16: |key| signed(i64::from(key)),
        i32: |key| signed(i64::from(key)),
        i64: signed,
        isize: |key| signed(key as i64),
        bool: u64::from,
        char: u64::from,
    }
    bytes {
        Str: |key| key.as_bytes(),
        String: |key| key.as_bytes(),
        &'static str: |key| key.as_bytes(),
        Vec<u8>: |key| key,
        Bytes: |key| key,
    }
    arrays { 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 24 28 32 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn agree<K: Ord + 'static>(a: &K, b: &K) -> bool {
        let (x, y) = (prefix(a), prefix(b));
        let exact = !is_exact::<K>() || (a == b) == (x == y);
        exact && (a > b || x <= y) && (a < b || x >= y)
    }

    proptest! {
        #[test]
        fn prefixes_do_not_contradict_keys(
            a: i64, b: i64, c: u32, d: u32, e in ".{0,12}", f in "[a-b]{0,12}", g: [u8; 10], h: [u8; 10], i: char, j: char,
        ) {
            prop_assert!(agree(&a, &b) && agree(&(a as i32), &(b as i32)) && agree(&(a as i8), &(b as i8)));
            prop_assert!(agree(&c, &d) && agree(&i, &j) && agree(&g, &h));
            prop_assert!(agree(&e, &f) && agree(&Str::from(e.as_str()), &Str::from(f.as_str())));
            prop_assert!(agree(&e.clone().into_bytes(), &f.clone().into_bytes()));
            prop_assert!(agree(&(a, e.clone()), &(b, f.clone())), "no prefix contradicts nothing");
        }
    }

    #[test]
    fn types_without_a_prefix_are_known() {
        assert!(has_prefix::<u64>() && has_prefix::<String>() && has_prefix::<[u8; 10]>());
        assert!(!has_prefix::<(u64, u64)>() && !is_exact::<String>());
    }
}

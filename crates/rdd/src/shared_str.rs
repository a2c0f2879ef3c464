//! How is text held so that cutting, cloning and sending it is cheap?
//!
//! As a part of a shared string, or, up to 23 bytes, as the bytes themselves; in three words either way. Short text is
//! cut from long with three loads, whatever its length: the bytes stay in registers until they are stored for good.

#![expect(unsafe_code, reason = "three words are read as what their last byte says, and text is not checked again")]

use std::cell::Cell;
use std::hash::BuildHasher;
use std::marker::PhantomData;
use std::ptr;
use std::slice;
use std::str;
use std::sync::Arc;

use foldhash::fast::FixedState;

/// Text of at most so many bytes is held without an allocation.
const INLINE_BYTES: usize = 23;

/// What the last byte is if the text is shared; otherwise it is the length.
const SHARED: u64 = 24;

/// Where the last byte is in the last word.
const TAG_SHIFT: u32 = 56;

/// The last word without its last byte.
const BELOW_TAG: u64 = (1 << TAG_SHIFT) - 1;

#[cfg(not(all(target_endian = "little", target_pointer_width = "64")))]
compile_error!("text is held in three words of 64 bits, lowest byte first");

/// Immutable text: valid UTF-8, always.
///
/// Inline: the text's bytes from the first byte of `first` on, and zeros behind them. Shared: the address of the
/// `String` of an `Arc`, a share of which this is; the address of the first byte within it; the length.
#[repr(C)]
pub(crate) struct SharedStr {
    first: u64,
    second: u64,
    third: u64,
    owner: PhantomData<Arc<String>>,
}

impl SharedStr {
    pub(crate) const EMPTY: Self = Self::words(0, 0, 0);

    #[inline]
    const fn words(first: u64, second: u64, third: u64) -> Self {
        Self { first, second, third, owner: PhantomData }
    }

    /// A copy of short text, a new allocation for long.
    #[inline]
    pub(crate) fn copied(text: &str) -> Self {
        match inline(text.as_bytes()) {
            Some(short) => short,
            None => Self::share(Arc::new(text.to_owned())),
        }
    }

    /// The string itself, unless it is short.
    pub(crate) fn owned(text: String) -> Self {
        match inline(text.as_bytes()) {
            Some(short) => short,
            None => Self::share(Arc::new(text)),
        }
    }

    fn share(owner: Arc<String>) -> Self {
        let (first, length) = (owner.as_ptr().expose_provenance() as u64, owner.len() as u64);
        Self::words(Arc::into_raw(owner).expose_provenance() as u64, first, length | SHARED << TAG_SHIFT)
    }

    #[inline]
    fn is_shared(&self) -> bool {
        self.third >> TAG_SHIFT == SHARED
    }

    /// The string of which it is a part, if it is shared.
    #[inline]
    fn owner(&self) -> Option<&String> {
        // SAFETY: the address of an `Arc`'s content, of which this is a share as long as it lives.
        self.is_shared().then(|| unsafe { &*ptr::with_exposed_provenance::<String>(self.first as usize) })
    }

    #[inline]
    pub(crate) fn as_str(&self) -> &str {
        let (start, length) = if self.is_shared() {
            (ptr::with_exposed_provenance::<u8>(self.second as usize), (self.third & BELOW_TAG) as usize)
        } else {
            (ptr::from_ref(self).cast::<u8>(), (self.third >> TAG_SHIFT) as usize)
        };
        // SAFETY: inline, so many bytes from its own first one on, of 23 that are there. Shared, a range of the owner's
        // bytes, which nobody changes. Both were valid text cut between characters when they were made.
        unsafe { str::from_utf8_unchecked(slice::from_raw_parts(start, length)) }
    }

    /// Whether it is the same text. Short ones are compared in registers, without a call that compares.
    #[inline]
    pub(crate) fn equals(&self, other: &Self) -> bool {
        if self.is_shared() {
            return self.as_str() == other.as_str();
        }
        // Lengths that differ, and being shared, differ in the last byte.
        (self.first ^ other.first) | (self.second ^ other.second) | (self.third ^ other.third) == 0
    }

    /// A hash that lasts no longer than the process. Short text is hashed in registers, without a call that reads it.
    #[inline]
    pub(crate) fn hash_words(&self) -> u64 {
        if self.is_shared() {
            return FixedState::default().hash_one(self.as_str());
        }
        mix(mix(self.first ^ SEEDS[0], self.second ^ SEEDS[1]) ^ self.third, SEEDS[2])
    }

    /// The part from `start` to `end`, which must lie between characters.
    #[inline(always)]
    pub(crate) fn cut(&self, start: usize, end: usize) -> Self {
        let part = &self.as_str()[start..end];
        let Some(owner) = self.owner() else { return Self::copied(part) };
        if part.len() > INLINE_BYTES {
            take_share(owner);
            return Self::words(self.first, self.second + start as u64, part.len() as u64 | SHARED << TAG_SHIFT);
        }
        let at = (self.second as usize + start) - owner.as_ptr().addr();
        match owner.as_bytes().get(at..).and_then(<[u8]>::first_chunk::<24>) {
            Some(bytes) => {
                let length = part.len();
                let first = word(bytes) & FIRST_BYTES[length + 16];
                let second = word(&bytes[8..]) & FIRST_BYTES[length + 8];
                let third = word(&bytes[16..]) & FIRST_BYTES[length];
                Self::words(first, second, third | (length as u64) << TAG_SHIFT)
            }
            None => Self::copied(part),
        }
    }

    /// Whether it keeps much more in memory than its own bytes.
    pub(crate) fn is_small_part(&self) -> bool {
        self.owner().is_some_and(|owner| owner.capacity() > 2 * self.as_str().len())
    }

    /// The string that it is a part of, if nobody else shares that.
    pub(crate) fn into_string(self) -> Option<String> {
        let owner = ptr::from_ref(self.owner()?);
        std::mem::forget(self);
        SPARE.with(|spare| {
            if spare.owner.get() == owner {
                spare.give_back();
            }
        });
        // SAFETY: the share that was this one's, which is forgotten.
        Arc::into_inner(unsafe { Arc::from_raw(owner) })
    }
}

impl Clone for SharedStr {
    #[inline]
    fn clone(&self) -> Self {
        if let Some(owner) = self.owner() {
            take_share(owner);
        }
        Self::words(self.first, self.second, self.third)
    }
}

impl Drop for SharedStr {
    #[inline]
    fn drop(&mut self) {
        if let Some(owner) = self.owner() {
            leave_share(owner);
        }
    }
}

/// Shares of one owner that this thread holds for the next text cut from it: lines and words come and go, and counting
/// each of them atomically would cost more than finding it.
struct Spare {
    owner: Cell<*const String>,
    shares: Cell<u32>,
}

/// So many shares are kept at most: all are given back one by one.
const MOST_SPARE: u32 = 64;

thread_local! {
    static SPARE: Spare = const { Spare { owner: Cell::new(ptr::null()), shares: Cell::new(0) } };
    static AT_END: AtEnd = const { AtEnd };
}

/// Gives spare shares back when its thread ends.
struct AtEnd;

impl Drop for AtEnd {
    fn drop(&mut self) {
        SPARE.with(Spare::give_back);
    }
}

impl Spare {
    fn give_back(&self) {
        let owner = self.owner.replace(ptr::null());
        for _ in 0..self.shares.replace(0) {
            // SAFETY: a share that no text has.
            unsafe { Arc::decrement_strong_count(owner) };
        }
    }
}

/// Takes another share of an owner that the caller has a share of.
#[inline]
fn take_share(owner: &String) {
    let owner = ptr::from_ref(owner);
    SPARE.with(|spare| match spare.shares.get() {
        shares @ 1.. if spare.owner.get() == owner => spare.shares.set(shares - 1),
        // SAFETY: it is the content of an `Arc` that lives.
        _ => unsafe { Arc::increment_strong_count(owner) },
    });
}

/// Leaves a share of an owner that nobody uses again.
#[inline]
fn leave_share(owner: &String) {
    let owner = ptr::from_ref(owner);
    SPARE.with(|spare| match spare.shares.get() {
        shares @ 1..MOST_SPARE if spare.owner.get() == owner => spare.shares.set(shares + 1),
        shares => leave_another(spare, owner, shares),
    });
}

#[cold]
fn leave_another(spare: &Spare, owner: *const String, shares: u32) {
    // SAFETY: the share that is left.
    let share = unsafe { Arc::from_raw(owner) };
    // Nothing more will be cut from what nobody else shares; a thread that ends keeps nothing, since nobody would give it
    // back.
    let keep = Arc::strong_count(&share) > 1 && (shares == 0 || spare.owner.get() != owner);
    if !keep || AT_END.try_with(|_| ()).is_err() {
        return;
    }
    let owner = Arc::into_raw(share);
    spare.give_back();
    spare.owner.set(owner);
    spare.shares.set(1);
}

/// Which bits of a word are its first bytes: none up to index 16, one byte at 17, all eight from 24 on.
const FIRST_BYTES: [u64; INLINE_BYTES + 17] = {
    let mut masks = [0; INLINE_BYTES + 17];
    let mut at = 17;
    while at < masks.len() {
        masks[at] = if at < 24 { (1 << (8 * (at - 16))) - 1 } else { u64::MAX };
        at += 1;
    }
    masks
};

/// Digits of π.
const SEEDS: [u64; 3] = [0x243F_6A88_85A3_08D3, 0x1319_8A2E_0370_7344, 0xA409_3822_299F_31D0];

/// Both halves of a product: every bit of the factors moves many of it.
#[inline]
fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

/// The first eight bytes.
#[inline]
fn word(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
}

/// The last eight bytes of at least eight, of which the first `known` are left out.
#[inline]
fn last(bytes: &[u8], known: usize) -> u64 {
    let last = bytes.last_chunk().map_or(0, |last| u64::from_le_bytes(*last));
    // At most seven are left: of eight, none is known.
    last >> (8 * (8 - (bytes.len() - known)))
}

/// Short text in registers, without a call that copies: `None` if it is long.
#[inline]
fn inline(text: &[u8]) -> Option<SharedStr> {
    let length = text.len();
    let (first, second, third) = match length {
        0 => (0, 0, 0),
        1..4 => {
            // The first, the middle and the last byte are all of up to three; some of them may be one.
            let byte = |at: usize| u64::from(text[at]) << (8 * at);
            (byte(0) | byte(length / 2) | byte(length - 1), 0, 0)
        }
        4..8 => {
            let four = |bytes: Option<&[u8; 4]>| bytes.map_or(0, |bytes| u64::from(u32::from_le_bytes(*bytes)));
            (four(text.first_chunk()) | four(text.last_chunk()) << (8 * (length - 4)), 0, 0)
        }
        8 => (word(text), 0, 0),
        9..16 => (word(text), last(text, 8), 0),
        16 => (word(text), word(&text[8..]), 0),
        17..=INLINE_BYTES => (word(text), word(&text[8..]), last(text, 16)),
        _ => return None,
    };
    Some(SharedStr::words(first, second, third | (length as u64) << TAG_SHIFT))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_cut_outside_characters_panics_as_that_of_str_does() {
        let text = SharedStr::copied("aé".repeat(20).as_str());
        assert!(std::panic::catch_unwind(|| text.cut(0, 2).as_str().len()).is_err());
        assert!(std::panic::catch_unwind(|| text.cut(3, 90).as_str().len()).is_err());
        assert!(std::panic::catch_unwind(|| SharedStr::copied("é").cut(1, 2).as_str().len()).is_err());
    }

    #[test]
    fn every_length_reads_back() {
        let all = "abcdefghijklmnopqrstuvwxyz".repeat(3);
        for length in 0..=all.len() {
            let (copied, owned) = (SharedStr::copied(&all[..length]), SharedStr::owned(all[..length].to_owned()));
            assert_eq!((copied.as_str(), owned.as_str()), (&all[..length], &all[..length]));
            assert_eq!(copied.is_shared(), length > INLINE_BYTES);
        }
    }

    #[test]
    fn the_last_share_gives_the_string_back() {
        let text = "a text that is longer than what is held inline";
        let whole = SharedStr::owned(text.to_owned());
        let part = whole.cut(2, 40);
        assert_eq!(whole.clone().into_string(), None, "others share it");
        drop(whole);
        assert_eq!(part.as_str(), &text[2..40]);
        assert_eq!(part.into_string().as_deref(), Some(text));
        assert_eq!(SharedStr::copied("short").into_string(), None);
    }

    #[test]
    fn shares_that_a_thread_kept_come_back_when_it_ends() {
        let whole = SharedStr::owned("a text that is longer than what is held inline".to_owned());
        let other = SharedStr::owned("another text that is longer than what is held".to_owned());
        let (cut, again) = (whole.cut(0, 30), other.cut(0, 30));
        std::thread::spawn(move || {
            for _ in 0..3 * MOST_SPARE {
                drop(cut.clone());
            }
            let many: Vec<_> = std::iter::repeat_n(cut, 3 * MOST_SPARE as usize).collect();
            drop(many);
            drop(again);
        })
        .join()
        .unwrap();
        assert!(whole.into_string().is_some() && other.into_string().is_some());
    }

    #[test]
    fn hashes_differ_in_every_bit() {
        let words: Vec<SharedStr> = (0..100_000).map(|n| SharedStr::copied(&format!("{n}"))).collect();
        for shift in [0, 20, 40, 57] {
            let mut seen = [0u32; 128];
            words.iter().for_each(|word| seen[(word.hash_words() >> shift) as usize % 128] += 1);
            assert!(seen.iter().all(|n| (600..960).contains(n)), "from bit {shift}: {seen:?}");
        }
    }

    proptest! {
        #[test]
        fn every_cut_of_a_cut_is_that_of_str(
            text in "[aé\u{1F980} ]{0,40}", cuts in prop::collection::vec(any::<prop::sample::Index>(), 4),
        ) {
            let between = |text: &str| -> Vec<usize> {
                text.char_indices().map(|(at, _)| at).chain([text.len()]).collect()
            };
            let (a, b) = (*cuts[0].get(&between(&text)), *cuts[1].get(&between(&text)));
            let (start, end) = (a.min(b), a.max(b));
            let whole = SharedStr::copied(&text);
            let part = whole.cut(start, end);
            drop(whole);
            prop_assert_eq!(part.as_str(), &text[start..end]);
            let (a, b) = (*cuts[2].get(&between(part.as_str())), *cuts[3].get(&between(part.as_str())));
            let (from, to) = (a.min(b), a.max(b));
            let again = part.cut(from, to);
            prop_assert_eq!(again.as_str(), &text[start + from..start + to]);
            let clone = again.clone();
            prop_assert_eq!(clone.as_str(), again.as_str());
            // A cut is followed by other bytes than a copy of it.
            for one in [&part, &again, &clone] {
                for other in [&part, &again, &SharedStr::copied(one.as_str())] {
                    prop_assert_eq!(one.equals(other), one.as_str() == other.as_str());
                    prop_assert!(!one.equals(other) || one.hash_words() == other.hash_words());
                }
            }
        }
    }
}

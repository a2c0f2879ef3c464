//! What is a line of text, and how is it cut from bytes without a copy of its own?
//!
//! A file is read in pieces. Each piece is checked once, and every line of it is a [`Str`]: a slice that shares the
//! piece, or, up to 23 bytes, a copy without an allocation. Words cut from a line are such slices again.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::io::{self, Read};
use std::mem;
use std::ops::{Bound, Deref, RangeBounds};

use memchr::{memchr, memchr2, memrchr2};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::shared_str::SharedStr;

/// Immutable text that is cheap to cut, clone and send: what [`text_file`](crate::RddContext::text_file) yields.
///
/// It reads like a `&str`. Slices share the bytes they were cut from, so a small slice may keep a large piece of a file
/// in memory; [`detach`](Self::detach) gives it bytes of its own. Vonk detaches what it keeps, such as the keys of a
/// combining table.
///
/// # Examples
/// ```
/// use rdd::Str;
///
/// let line = Str::from("the quick brown fox");
/// let words: Vec<Str> = line.split_whitespace().collect();
/// assert_eq!(words, ["the", "quick", "brown", "fox"]);
/// assert_eq!(line.split(' ').nth(1).as_deref(), Some("quick"));
/// assert_eq!(line.len(), 19);
/// ```
#[derive(Clone)]
pub struct Str(SharedStr);

impl Str {
    /// The empty text.
    #[must_use]
    pub const fn new() -> Self {
        Self(SharedStr::EMPTY)
    }

    /// The same as a `&str`.
    #[must_use]
    #[inline]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// A part of it, by byte positions, sharing its bytes.
    ///
    /// # Panics
    /// If the range is out of bounds or does not lie between characters, as `&str[..]` does.
    #[must_use]
    #[inline(always)]
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Self {
        let start = match range.start_bound() {
            Bound::Included(&at) => at,
            Bound::Excluded(&at) => at + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&at) => at + 1,
            Bound::Excluded(&at) => at,
            Bound::Unbounded => self.len(),
        };
        Self(self.0.cut(start, end))
    }

    /// A part of it that was found by `&str` methods, sharing its bytes.
    ///
    /// # Panics
    /// If `part` does not lie in it.
    ///
    /// # Examples
    /// ```
    /// let line = rdd::Str::from("  level=warn  ");
    /// assert_eq!(line.slice_of(line.trim()), "level=warn");
    /// ```
    #[must_use]
    #[inline]
    pub fn slice_of(&self, part: &str) -> Self {
        let (start, whole) = (part.as_ptr().addr().wrapping_sub(self.as_ptr().addr()), self.len());
        assert!(start <= whole && part.len() <= whole - start, "the part lies in the text");
        self.slice(start..start + part.len())
    }

    /// The words between white space, as `str::split_whitespace` finds them. The iterator owns what it reads, so a
    /// `flat_map` may return it.
    #[must_use]
    #[inline]
    pub fn split_whitespace(&self) -> SplitWhitespace {
        SplitWhitespace { text: self.clone(), at: 0 }
    }

    /// The parts between separators: a `char`, a text, or a test of characters. The iterator owns what it reads.
    ///
    /// # Examples
    /// ```
    /// let row = rdd::Str::from("7,Ada,,London");
    /// let fields: Vec<_> = row.split(',').collect();
    /// assert_eq!(fields, ["7", "Ada", "", "London"]);
    /// assert_eq!(row.split(|c: char| c.is_ascii_digit()).count(), 2);
    /// ```
    #[must_use]
    pub fn split<S: Separator>(&self, separator: S) -> Split<S> {
        Split { text: self.clone(), at: Some(0), separator }
    }

    /// A hash that lasts no longer than the process: cheaper than what [`Hash`] feeds to any hasher.
    #[inline]
    pub(crate) fn hash_words(&self) -> u64 {
        self.0.hash_words()
    }

    /// The same text in bytes of its own: whatever it was cut from may go.
    #[must_use]
    #[inline]
    pub fn detach(self) -> Self {
        if self.0.is_small_part() { Self::from(self.as_str()) } else { self }
    }
}

impl Deref for Str {
    type Target = str;
    #[inline]
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl Borrow<str> for Str {
    #[inline]
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Str {
    #[inline]
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<[u8]> for Str {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl From<&str> for Str {
    #[inline]
    fn from(text: &str) -> Self {
        Self(SharedStr::copied(text))
    }
}

impl Default for Str {
    fn default() -> Self {
        Self::new()
    }
}

impl From<String> for Str {
    fn from(text: String) -> Self {
        Self(SharedStr::owned(text))
    }
}

impl From<Str> for String {
    fn from(text: Str) -> Self {
        text.as_str().to_owned()
    }
}

impl fmt::Display for Str {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.as_str(), f)
    }
}

impl fmt::Debug for Str {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

// Equality, order and hash are those of `str`: what `Borrow<str>` promises.
impl PartialEq for Str {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.0.equals(&other.0)
    }
}

impl Eq for Str {}

impl PartialOrd for Str {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Str {
    #[inline]
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl Hash for Str {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl PartialEq<str> for Str {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Str {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl PartialEq<Str> for &str {
    fn eq(&self, other: &Str) -> bool {
        *self == other.as_str()
    }
}

impl Serialize for Str {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Str {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Str;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }
            fn visit_str<E>(self, text: &str) -> Result<Str, E> {
                Ok(Str::from(text))
            }
            fn visit_string<E>(self, text: String) -> Result<Str, E> {
                Ok(Str::from(text))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

/// What [`Str::split`] splits at.
pub trait Separator {
    /// Where the first separator in `text` begins and ends, if there is one. Never empty.
    fn find(&self, text: &str) -> Option<(usize, usize)>;
}

impl Separator for char {
    fn find(&self, text: &str) -> Option<(usize, usize)> {
        let at = match u8::try_from(*self) {
            Ok(byte) if byte.is_ascii() => memchr(byte, text.as_bytes()),
            _ => text.find(*self),
        }?;
        Some((at, at + self.len_utf8()))
    }
}

impl Separator for &str {
    fn find(&self, text: &str) -> Option<(usize, usize)> {
        // An empty separator would find itself for ever: it separates nothing.
        text.find(self).filter(|_| !self.is_empty()).map(|at| (at, at + self.len()))
    }
}

impl Separator for String {
    fn find(&self, text: &str) -> Option<(usize, usize)> {
        Separator::find(&self.as_str(), text)
    }
}

impl<F: Fn(char) -> bool> Separator for F {
    fn find(&self, text: &str) -> Option<(usize, usize)> {
        text.char_indices().find(|&(_, c)| self(c)).map(|(at, c)| (at, at + c.len_utf8()))
    }
}

/// The parts of a text between separators. See [`Str::split`].
#[derive(Debug, Clone)]
pub struct Split<S> {
    text: Str,
    at: Option<usize>,
    separator: S,
}

impl<S: Separator> Iterator for Split<S> {
    type Item = Str;

    fn next(&mut self) -> Option<Str> {
        let start = self.at?;
        match self.separator.find(&self.text[start..]) {
            Some((from, to)) => {
                self.at = Some(start + to);
                Some(self.text.slice(start..start + from))
            }
            None => {
                self.at = None;
                Some(self.text.slice(start..))
            }
        }
    }
}

/// The words of a text. See [`Str::split_whitespace`].
#[derive(Debug, Clone)]
pub struct SplitWhitespace {
    text: Str,
    at: usize,
}

/// What a byte of UTF-8 is to [`SplitWhitespace`].
#[derive(Clone, Copy, PartialEq)]
enum Class {
    Text,
    Space,
    /// Part of a longer character.
    Wide,
}

/// By table, so that a word costs one lookup per byte.
const CLASSES: [Class; 256] = {
    let mut classes = [Class::Text; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte {
            0x09..=0x0d | 0x20 => Class::Space,
            0x80.. => Class::Wide,
            _ => Class::Text,
        };
        byte += 1;
    }
    classes
};

/// The same byte eight times.
const fn eight(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

impl SplitWhitespace {
    /// The first position from `at` on whose character is no white space; the length if there is none.
    #[inline]
    fn seek_text(text: &str, mut at: usize) -> usize {
        let bytes = text.as_bytes();
        while let Some(&byte) = bytes.get(at) {
            match CLASSES[usize::from(byte)] {
                Class::Space => at += 1,
                Class::Text => return at,
                Class::Wide => match wide(text, at) {
                    (true, length) => at += length,
                    (false, _) => return at,
                },
            }
        }
        at
    }

    /// The first position from `at` on whose character is white space; the length if there is none.
    #[inline]
    fn seek_space(text: &str, mut at: usize) -> usize {
        let bytes = text.as_bytes();
        loop {
            // Eight bytes at a time up to the first that is no visible character of ASCII: the lowest set bit is its.
            while let Some(eight_bytes) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
                let word = u64::from_le_bytes(*eight_bytes);
                let stops = (word.wrapping_sub(eight(b' ' + 1)) | word) & eight(0x80);
                if stops != 0 {
                    at += (stops.trailing_zeros() / 8) as usize;
                    break;
                }
                at += 8;
            }
            let Some(&byte) = bytes.get(at) else { return at };
            match CLASSES[usize::from(byte)] {
                Class::Space => return at,
                Class::Text => at += 1,
                Class::Wide => match wide(text, at) {
                    (true, _) => return at,
                    (false, length) => at += length,
                },
            }
        }
    }
}

/// Whether the character at `at`, which is not ASCII, is white space, and how long it is.
#[cold]
fn wide(text: &str, at: usize) -> (bool, usize) {
    text[at..].chars().next().map_or((true, 0), |c| (c.is_whitespace(), c.len_utf8()))
}

impl Iterator for SplitWhitespace {
    type Item = Str;

    // A word stays in registers from here to the table that counts it only if nothing is called in between.
    #[inline(always)]
    fn next(&mut self) -> Option<Str> {
        let text = self.text.as_str();
        let start = Self::seek_text(text, self.at);
        if start == text.len() {
            return None;
        }
        let end = Self::seek_space(text, start);
        self.at = end;
        Some(self.text.slice(start..end))
    }
}

/// How much is read at a time: it fits a core's cache together with what is made of it, and a system call for it costs
/// a hundredth of the copy.
const PIECE_BYTES: usize = 512 << 10;

/// How much is read at a time behind the end of a split, where only the rest of its last line is wanted.
const TAIL_BYTES: usize = 32 << 10;

/// The longest line. Spark's limit is what fits an array of the JVM, twice as much.
pub(crate) const MAX_LINE_BYTES: usize = 1 << 30;

/// Cuts what a reader gives into lines, as Hadoop's text input does: `\n`, `\r\n` and `\r` end a line; the last one needs
/// no end; bytes that are no UTF-8 become U+FFFD.
///
/// A split `[start, end)` of a file owns the lines that *begin* in it: whoever reads it goes on behind its end until its
/// last line is complete, and skips the line that began before it.
#[derive(Debug)]
pub struct Lines<R> {
    input: R,
    /// Whole lines, their ends included.
    text: Str,
    at: usize,
    /// No `\r` in `text`: the common case, and the faster search.
    unix: bool,
    /// Read already, but behind the last complete line.
    rest: Vec<u8>,
    /// Position in the file of the first byte of `rest`.
    position: u64,
    end: u64,
    skip_first: bool,
    done: bool,
    replaced: u64,
}

impl<R: Read> Lines<R> {
    /// All lines of `input`.
    pub fn new(input: R) -> Self {
        Self::of_split(input, 0, u64::MAX)
    }

    /// The lines of a file that begin in `[start, end)`. `input` must give the file from [`Self::first_byte`] on, also
    /// beyond `end`.
    pub fn of_split(input: R, start: u64, end: u64) -> Self {
        Self {
            input,
            text: Str::new(),
            at: 0,
            unix: true,
            rest: Vec::new(),
            position: Self::first_byte(start),
            end,
            skip_first: start > 0,
            done: start >= end,
            replaced: 0,
        }
    }

    /// From where the file must be read for a split that begins at `start`: one byte earlier, since that byte tells
    /// whether a line begins there.
    #[must_use]
    pub fn first_byte(start: u64) -> u64 {
        start.saturating_sub(1)
    }

    /// The next line, without its end.
    ///
    /// # Errors
    /// What the reader returned, or `InvalidData` for a line above 1 GiB. The reader is not asked again.
    #[inline]
    pub fn next_line(&mut self) -> io::Result<Option<Str>> {
        loop {
            if let Some(line) = self.next_in_piece() {
                return Ok(Some(line));
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// The next line of the piece that was read last, if it has one.
    #[inline]
    pub(crate) fn next_in_piece(&mut self) -> Option<Str> {
        let (start, bytes) = (self.at, self.text.as_bytes());
        if start == bytes.len() {
            return None;
        }
        let found = if self.unix { memchr(b'\n', &bytes[start..]) } else { memchr2(b'\n', b'\r', &bytes[start..]) };
        let end = found.map_or(bytes.len(), |n| start + n);
        self.at = after_line_end(bytes, end);
        Some(self.text.slice(start..end))
    }

    /// How many bad sequences of bytes have been replaced so far.
    pub fn replaced(&self) -> u64 {
        self.replaced
    }

    /// How far the file was read.
    pub fn position(&self) -> u64 {
        self.position + self.rest.len() as u64
    }

    /// Reads the next piece and cuts it behind its last complete line. False at the end.
    fn fill(&mut self) -> io::Result<bool> {
        let used = mem::take(&mut self.text);
        self.at = 0;
        if self.done {
            return Ok(false);
        }
        // The piece before is written over if no line of it is alive: no page is touched for the first time then.
        let mut piece = used.0.into_string().map_or_else(Vec::new, String::into_bytes);
        piece.clear();
        piece.extend_from_slice(&self.rest);
        match self.complete_lines(&mut piece) {
            Ok(lines) => {
                self.rest.clear();
                self.rest.extend_from_slice(&piece[lines..]);
                piece.truncate(lines);
                self.own(piece);
                Ok(true)
            }
            Err(error) => {
                self.done = true;
                Err(error)
            }
        }
    }

    /// Reads into `piece` until it holds a complete line or the input ends. Returns how many bytes are complete lines.
    fn complete_lines(&mut self, piece: &mut Vec<u8>) -> io::Result<usize> {
        loop {
            let known = piece.len();
            let more = if self.position + known as u64 >= self.end { TAIL_BYTES } else { PIECE_BYTES }.max(known);
            if known >= MAX_LINE_BYTES {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is longer than 1 GiB"));
            }
            piece.resize(known + more, 0);
            let read = read_full(&mut self.input, &mut piece[known..])?;
            piece.truncate(known + read);
            if read < more {
                self.done = true;
                return Ok(piece.len());
            }
            // The last byte may be the first half of `\r\n`, so it ends no line yet.
            let settled = if piece.last() == Some(&b'\r') { piece.len() - 1 } else { piece.len() };
            if let Some(last) = memrchr2(b'\n', b'\r', &piece[..settled]) {
                return Ok(last + 1);
            }
        }
    }

    /// Keeps those of the complete lines that the split owns.
    fn own(&mut self, mut piece: Vec<u8>) {
        let base = self.position;
        self.position += piece.len() as u64;
        if self.position >= self.end {
            // The first line end at or behind the split's end is that of its last line.
            let from = usize::try_from(self.end - base).unwrap_or(usize::MAX).saturating_sub(1);
            piece.truncate(next_line_start(&piece, from));
            self.done = true;
        }
        if mem::take(&mut self.skip_first) {
            // Cut off before it is decoded: it may begin in the middle of a character.
            let first = next_line_start(&piece, 0);
            if base + first as u64 >= self.end {
                piece.clear();
            } else {
                piece.drain(..first);
            }
        }
        self.unix = memchr(b'\r', &piece).is_none();
        self.text = Str::from(self.decode(piece));
    }

    fn decode(&mut self, piece: Vec<u8>) -> String {
        String::from_utf8(piece).unwrap_or_else(|error| {
            let (text, replaced) = repair(error.as_bytes());
            self.replaced += replaced;
            text
        })
    }
}

/// Text of bytes that are not all UTF-8, and how many sequences were replaced by U+FFFD.
pub(crate) fn repair(bytes: &[u8]) -> (String, u64) {
    let (mut text, mut replaced) = (String::with_capacity(bytes.len()), 0);
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
            replaced += 1;
        }
    }
    (text, replaced)
}

/// Where the line begins that follows the first line end at or behind `from`; the length if there is none.
fn next_line_start(bytes: &[u8], from: usize) -> usize {
    let tail = bytes.get(from..).unwrap_or_default();
    memchr2(b'\n', b'\r', tail).map_or(bytes.len(), |n| after_line_end(bytes, from + n))
}

/// The position behind the line end at `at`, which takes two bytes if it is `\r\n`; the length if nothing is there.
#[inline]
fn after_line_end(bytes: &[u8], at: usize) -> usize {
    let wide = bytes.get(at) == Some(&b'\r') && bytes.get(at + 1) == Some(&b'\n');
    (at + 1 + usize::from(wide)).min(bytes.len())
}

/// Reads until the buffer is full or the input ends: fewer bytes than asked for mean the end.
pub(crate) fn read_full(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(bytes: &[u8], start: u64, end: u64) -> Vec<String> {
        let from = usize::try_from(Lines::<&[u8]>::first_byte(start)).unwrap();
        let mut lines = Lines::of_split(&bytes[from..], start, end);
        std::iter::from_fn(|| lines.next_line().unwrap()).map(String::from).collect()
    }

    /// Hadoop's rules, written down byte by byte.
    fn plainly(bytes: &[u8]) -> Vec<(u64, String)> {
        let (mut all, mut start, mut at) = (Vec::new(), 0, 0);
        let text = |line: &[u8]| String::from_utf8_lossy(line).into_owned();
        while at < bytes.len() {
            let width = match &bytes[at..] {
                [b'\r', b'\n', ..] => 2,
                [b'\n' | b'\r', ..] => 1,
                _ => 0,
            };
            if width > 0 {
                all.push((start as u64, text(&bytes[start..at])));
                start = at + width;
            }
            at += width.max(1);
        }
        if start < bytes.len() {
            all.push((start as u64, text(&bytes[start..])));
        }
        all
    }

    #[test]
    fn every_kind_of_line_end_ends_a_line() {
        assert_eq!(lines(b"a\nb\r\nc\rd\n\n\r\ne", 0, u64::MAX), ["a", "b", "c", "d", "", "", "e"]);
        assert_eq!(lines(b"", 0, u64::MAX), [""; 0]);
        assert_eq!(lines(b"\n", 0, u64::MAX), [""]);
        assert_eq!(lines(b"a\r", 0, u64::MAX), ["a"]);
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced_and_counted() {
        let mut lines = Lines::new(&b"ok\nb\xff\xfed\nf\xc3\ng"[..]);
        let all: Vec<_> = std::iter::from_fn(|| lines.next_line().unwrap()).collect();
        assert_eq!(all, ["ok", "b\u{fffd}\u{fffd}d", "f\u{fffd}", "g"]);
        assert_eq!(lines.replaced(), 3);
    }

    #[test]
    fn a_line_longer_than_a_piece_is_one_line() {
        let long = "x".repeat(3 * PIECE_BYTES + 17);
        let text = format!("a\n{long}\nb");
        assert_eq!(lines(text.as_bytes(), 0, u64::MAX), ["a", long.as_str(), "b"]);
        assert_eq!(lines(text.as_bytes(), 0, 2), ["a"]);
        assert_eq!(lines(text.as_bytes(), 5, 9), [""; 0]);
        assert_eq!(lines(text.as_bytes(), 2, 9), [long.as_str()]);
    }

    #[test]
    fn a_line_end_on_the_edge_of_two_pieces_is_one() {
        for shift in 0..4 {
            let text = format!("{}\r\nb\r\n", "x".repeat(PIECE_BYTES - 2 + shift));
            let all = lines(text.as_bytes(), 0, u64::MAX);
            assert_eq!((all.len(), all[1].as_str()), (2, "b"), "shift {shift}");
        }
    }

    #[test]
    fn a_detached_slice_lets_its_source_go() {
        let line = Str::from("a long line that is shared by all of the words in it, once and again".repeat(4));
        let part = line.slice(2..40);
        assert!(part.0.is_small_part());
        let own = part.clone().detach();
        assert_eq!(own, part);
        assert!(!own.0.is_small_part());
    }

    proptest! {
        #[test]
        fn splits_own_each_line_once(
            pieces in prop::collection::vec(prop::sample::select(vec!["a", "bc", "\n", "\r", "\r\n", "é", "defghi"]), 0..60),
            cuts in prop::collection::vec(0usize..80, 0..6),
        ) {
            let bytes = pieces.concat().into_bytes();
            let mut edges: Vec<u64> = cuts.iter().map(|&cut| cut.min(bytes.len()) as u64).collect();
            edges.extend([0, bytes.len() as u64]);
            edges.sort_unstable();
            edges.dedup();
            let expected = plainly(&bytes);
            for split in edges.windows(2) {
                let owned: Vec<_> =
                    expected.iter().filter(|(at, _)| (split[0]..split[1]).contains(at)).map(|(_, l)| l.clone()).collect();
                prop_assert_eq!(lines(&bytes, split[0], split[1]), owned, "{:?} of {:?}", split, pieces);
            }
        }

        #[test]
        fn words_and_parts_are_those_of_str(text in "[ a-c\t\u{a0}é\u{2003},]{0,60}") {
            let own = Str::from(text.as_str());
            prop_assert_eq!(own.split_whitespace().map(String::from).collect::<Vec<_>>(), text.split_whitespace().collect::<Vec<_>>());
            prop_assert_eq!(own.split(',').map(String::from).collect::<Vec<_>>(), text.split(',').collect::<Vec<_>>());
            prop_assert_eq!(own.split("a,").map(String::from).collect::<Vec<_>>(), text.split("a,").collect::<Vec<_>>());
            prop_assert_eq!(own.split('é').map(String::from).collect::<Vec<_>>(), text.split('é').collect::<Vec<_>>());
            let vowel = |c: char| c == 'a' || c == 'é';
            prop_assert_eq!(own.split(vowel).map(String::from).collect::<Vec<_>>(), text.split(vowel).collect::<Vec<_>>());
        }
    }
}

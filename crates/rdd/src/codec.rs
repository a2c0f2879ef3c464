//! How does a value become bytes, and a value again?
//!
//! The only file that names bincode. Values are written without names, tags or padding: integers in as few bytes as they
//! need, text and sequences behind their length. The bytes live as long as one application of one executable.

use bincode::config::{Configuration, standard};
use bincode::enc::write::Writer;
use bincode::error::EncodeError;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;

/// A value that can go from one process to another.
pub trait Data: Serialize + DeserializeOwned + Send + Sync + 'static {}

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Data for T {}

const CONFIG: Configuration = standard();

struct Sink<'a>(&'a mut Vec<u8>);

impl Writer for Sink<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// Appends a value's bytes.
///
/// # Errors
/// When the value's own `Serialize` fails; `out` then holds part of it.
#[inline]
pub fn encode_into<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), Error> {
    bincode::serde::encode_into_writer(value, Sink(out), CONFIG)
        .map_err(|error| Error::Encode { type_name: std::any::type_name::<T>(), source: Box::new(error) })
}

/// A value's bytes.
///
/// # Errors
/// When the value's own `Serialize` fails.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    encode_into(value, &mut out)?;
    Ok(out)
}

/// The value at the beginning of `bytes`, and how many bytes it takes.
///
/// # Errors
/// When there is no such value.
#[inline]
pub fn decode_prefix<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), Error> {
    // Borrowed decoding: text is handed to the type as a slice of `bytes`, which copies it at most once.
    bincode::serde::borrow_decode_from_slice(bytes, CONFIG)
        .map_err(|error| Error::Decode { type_name: std::any::type_name::<T>(), source: Box::new(error) })
}

/// The value that is all of `bytes`.
///
/// # Errors
/// When there is no such value, or bytes are left.
#[inline]
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    match decode_prefix(bytes)? {
        (value, used) if used == bytes.len() => Ok(value),
        _ => Err(Error::CorruptBody("bytes behind a value")),
    }
}

/// Writes the body of a stage: which functions run and what they captured.
#[derive(Debug, Default)]
pub struct BodyWriter {
    bytes: Vec<u8>,
}

/// Version of a stage body's layout.
const BODY_VERSION: u8 = 1;

impl BodyWriter {
    /// An empty body.
    #[must_use]
    pub fn new() -> Self {
        Self { bytes: vec![BODY_VERSION] }
    }

    /// A piece of a body, without the version in front.
    pub(crate) fn part() -> Self {
        Self::default()
    }

    /// Appends a value.
    ///
    /// # Errors
    /// When the value's own `Serialize` fails.
    pub fn value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        encode_into(value, &mut self.bytes)
    }

    /// Appends what a function captured.
    ///
    /// # Errors
    /// When a captured variable cannot be encoded.
    pub fn function<F: crate::function::Function>(&mut self, function: &F) -> Result<(), Error> {
        crate::function::encode(function, self)
    }

    /// Appends bytes that are an encoded value already.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The body's bytes.
    #[must_use]
    pub fn finish(self) -> Bytes {
        self.bytes.into()
    }
}

/// Reads a body in the order in which it was written.
#[derive(Debug)]
pub struct BodyReader<'a> {
    bytes: &'a [u8],
}

impl<'a> BodyReader<'a> {
    /// A reader at the beginning of a body.
    ///
    /// # Errors
    /// When the body is of another version.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Error> {
        match bytes.split_first() {
            Some((&BODY_VERSION, bytes)) => Ok(Self { bytes }),
            _ => Err(Error::CorruptBody("another version of the layout")),
        }
    }

    /// The next value.
    ///
    /// # Errors
    /// When there is no such value.
    pub fn value<T: DeserializeOwned>(&mut self) -> Result<T, Error> {
        let (value, used) = decode_prefix(self.bytes)?;
        self.bytes = &self.bytes[used..];
        Ok(value)
    }

    /// The next function.
    ///
    /// # Errors
    /// When what it captured cannot be decoded.
    pub fn function<F: crate::function::Function>(&mut self) -> Result<F, Error> {
        crate::function::decode(self)
    }

    /// The end.
    ///
    /// # Errors
    /// When bytes are left.
    pub fn finish(self) -> Result<(), Error> {
        if self.bytes.is_empty() { Ok(()) } else { Err(Error::CorruptBody("bytes behind the last part")) }
    }
}

/// Writes what one partition brings: rows of a collection, pieces of files.
#[derive(Debug, Default)]
pub struct InputWriter {
    bytes: Vec<u8>,
}

impl InputWriter {
    /// Appends a value.
    ///
    /// # Errors
    /// When the value's own `Serialize` fails.
    pub fn value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        encode_into(value, &mut self.bytes)
    }

    /// Appends bytes as they are.
    pub fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The input's bytes.
    #[must_use]
    pub fn finish(self) -> Bytes {
        self.bytes.into()
    }
}

/// Reads a partition's input in the order in which it was written.
#[derive(Debug)]
pub struct InputReader {
    bytes: Bytes,
}

impl InputReader {
    /// A reader at the beginning.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        Self { bytes }
    }

    /// The next value.
    ///
    /// # Errors
    /// When there is no such value.
    pub fn value<T: DeserializeOwned>(&mut self) -> Result<T, Error> {
        let (value, used) = decode_prefix(&self.bytes)?;
        drop(self.bytes.split_to(used));
        Ok(value)
    }

    /// All that is left, to be read later.
    #[must_use]
    pub fn rest(&mut self) -> Self {
        Self { bytes: std::mem::take(&mut self.bytes) }
    }

    /// The next so many bytes, shared.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn take(&mut self, length: usize) -> Result<Bytes, Error> {
        if length > self.bytes.len() {
            return Err(Error::CorruptBody("an input that ends early"));
        }
        Ok(self.bytes.split_to(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_numbers_and_short_text_are_compact() {
        assert_eq!(encode(&("word", 1u64)).unwrap().len(), 6);
    }

    #[test]
    fn a_value_reads_back_and_leftovers_are_an_error() {
        let bytes = encode(&(7u32, "x".to_owned())).unwrap();
        assert_eq!(decode::<(u32, String)>(&bytes).unwrap(), (7, "x".to_owned()));
        assert!(matches!(decode::<u32>(&bytes), Err(Error::CorruptBody(_))));
        assert!(matches!(decode::<(u32, String)>(&bytes[..1]), Err(Error::Decode { .. })));
    }
}

//! How does an executor find the driver's function?
//!
//! Driver and executors run the same executable. Every generic instance that may be named in a message has a record in
//! the executable's *task table*, a section that the linker gathers: instantiating [`reference`] emits the record. What
//! crosses the wire is an index into that table, a fingerprint of the types, and the bytes that functions captured.
//! An address is never made from a message: the index is checked against the table, the fingerprint against the entry.
//!
//! A function that captures nothing has size zero and is carried by its type alone. A function that captures must have
//! been made by [`task!`](crate::task) or a `…_with` operator: it then consists of exactly one [`Captured`] value, whose
//! alignment no other closure has, so that everything else is refused when the program is built.

#![expect(unsafe_code, reason = "the task table is read as the linker wrote it, and functions are made of their bytes")]

use std::any::{Any, TypeId, type_name};
use std::cell::RefCell;
use std::hash::{Hash, Hasher};
use std::mem::{MaybeUninit, align_of, size_of};
use std::ptr::NonNull;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::codec::{BodyReader, BodyWriter, Data};
use crate::error::Error;

/// A function that can be sent: a closure or `fn` item that captures nothing, or what [`task!`](crate::task) makes.
///
/// Every closure satisfies the bound; one that captures variables by itself is refused when the program is built.
pub trait Function: Clone + Send + Sync + 'static {}

impl<F: Clone + Send + Sync + 'static> Function for F {}

/// Names an entry of the task table to every process of the same executable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionRef {
    index: u32,
    fingerprint: u64,
}

/// Something that a message can name: what its entry gives, to whoever resolves it.
pub trait Named: 'static {
    /// What the entry gives.
    type Value: 'static;

    /// Gives it.
    fn value() -> Self::Value;
}

/// What an entry of the table returns.
struct Entry {
    fingerprint: u64,
    name: &'static str,
    value: Box<dyn Any>,
}

fn entry<N: Named>() -> Entry {
    Entry { fingerprint: fingerprint::<N>(), name: type_name::<N>(), value: Box::new(N::value()) }
}

/// Differs between any two types of one executable, and is the same in each of its processes.
fn fingerprint<N: 'static>() -> u64 {
    #[derive(Default)]
    struct Fold(u64);
    impl Hasher for Fold {
        fn finish(&self) -> u64 {
            self.0
        }
        fn write(&mut self, bytes: &[u8]) {
            self.0 = xxhash_rust::xxh3::xxh3_64_with_seed(bytes, self.0);
        }
    }
    let mut fold = Fold::default();
    TypeId::of::<N>().hash(&mut fold);
    fold.finish()
}

/// The reference of an entry. Calling it, anywhere in a program, is what puts the entry into the table.
#[must_use]
pub fn reference<N: Named>() -> FunctionRef {
    FunctionRef { index: table::index_of::<N>(), fingerprint: fingerprint::<N>() }
}

/// What the entry gives that a message names.
///
/// # Errors
/// When the table has no such entry, or another one: the message is of another executable.
pub fn resolve<V: 'static>(reference: FunctionRef) -> Result<V, Error> {
    let FunctionRef { index, fingerprint } = reference;
    let Some(entry) = table::get(index) else {
        return Err(Error::UnknownFunction { index, entries: table::len() });
    };
    let entry = entry();
    match entry.value.downcast::<V>() {
        Ok(value) if entry.fingerprint == fingerprint => Ok(*value),
        _ => Err(Error::OtherFunction { index, found: entry.name }),
    }
}

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod table {
    use std::arch::asm;

    use super::{Entry, Named, entry};

    unsafe extern "C" {
        // Made by the linker for every section whose name is an identifier.
        #[link_name = "__start_taskfns"]
        static START: i64;
        #[link_name = "__stop_taskfns"]
        static STOP: i64;
    }

    /// In every table, so that the section exists in a program that sends nothing.
    struct Nothing;

    impl Named for Nothing {
        type Value = ();

        fn value() {}
    }

    /// The records: each is the distance from itself to its entry function, so that the file needs no relocation.
    fn records() -> &'static [i64] {
        std::hint::black_box(record::<Nothing>());
        let (start, stop) = (&raw const START, &raw const STOP);
        let bytes = (stop as usize) - (start as usize);
        // SAFETY: the linker laid out the records of `record` between the two symbols, and nothing else goes there.
        unsafe { std::slice::from_raw_parts(start, bytes / size_of::<i64>()) }
    }

    /// Emits the record of `N`'s entry into the section and gives its address.
    fn record<N: Named>() -> *const i64 {
        let record: *const i64;
        // SAFETY: only computes an address. `aR` keeps the section from being collected though nothing refers to it.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            asm!(
                ".pushsection taskfns,\"aR\",@progbits",
                ".p2align 3",
                "2:",
                ".quad {run} - 2b",
                ".popsection",
                "lea {record}, [rip + 2b]",
                run = sym entry::<N>,
                record = out(reg) record,
                options(nomem, nostack, preserves_flags)
            );
            #[cfg(target_arch = "aarch64")]
            asm!(
                ".pushsection taskfns,\"aR\",@progbits",
                ".p2align 3",
                "2:",
                ".quad {run} - 2b",
                ".popsection",
                "adrp {record}, 2b",
                "add {record}, {record}, :lo12:2b",
                run = sym entry::<N>,
                record = out(reg) record,
                options(nomem, nostack, preserves_flags)
            );
        }
        record
    }

    pub(super) fn index_of<N: Named>() -> u32 {
        let distance = record::<N>() as usize - records().as_ptr() as usize;
        u32::try_from(distance / size_of::<i64>()).expect("a program has fewer than 2^32 functions")
    }

    pub(super) fn len() -> usize {
        records().len()
    }

    pub(super) fn get(index: u32) -> Option<fn() -> Entry> {
        let record = records().get(index as usize)?;
        let address = (&raw const *record).wrapping_byte_offset(isize::try_from(*record).ok()?);
        // SAFETY: `record` is one of ours, so that the sum is the address of an `entry` function.
        Some(unsafe { std::mem::transmute::<*const i64, fn() -> Entry>(address) })
    }
}

/// Where no section can be gathered, entries are numbered as they are first named: good for one process only.
#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
mod table {
    use std::sync::{Mutex, PoisonError};

    use super::{Entry, Named, entry};

    static ENTRIES: Mutex<Vec<fn() -> Entry>> = Mutex::new(Vec::new());

    pub(super) fn index_of<N: Named>() -> u32 {
        let mut entries = ENTRIES.lock().unwrap_or_else(PoisonError::into_inner);
        let index = entries.iter().position(|&known| known as usize == entry::<N> as usize).unwrap_or_else(|| {
            entries.push(entry::<N>);
            entries.len() - 1
        });
        u32::try_from(index).expect("a program has fewer than 2^32 functions")
    }

    pub(super) fn len() -> usize {
        ENTRIES.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(super) fn get(index: u32) -> Option<fn() -> Entry> {
        ENTRIES.lock().unwrap_or_else(PoisonError::into_inner).get(index as usize).copied()
    }
}

/// Whether functions of this executable can be run by other processes: it can be built for Linux on x86-64 or AArch64.
/// Elsewhere they run in the driver's own process only.
#[must_use]
pub const fn crosses_processes() -> bool {
    cfg!(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))
}

/// A size and an alignment that no closure has but those of [`Captured`]: what tells them apart when a program is built.
const CAPTURED_LAYOUT: usize = 256;

/// What a function captured, as the only content of a closure that [`task!`](crate::task) makes.
#[repr(C, align(256))]
pub struct Captured<E> {
    environment: Arc<E>,
}

impl<E: Data> Captured<E> {
    /// Takes the environment of the function about to be made.
    pub fn new(environment: E) -> Self {
        const { assert!(size_of::<Self>() == CAPTURED_LAYOUT && align_of::<Self>() == CAPTURED_LAYOUT) };
        Self { environment: Arc::new(environment) }
    }
}

impl<E> Captured<E> {
    /// What was captured. Called within the closure as a function of the whole: a closure that names a part of a
    /// variable captures that part alone.
    #[inline]
    pub fn get(captured: &Self) -> &E {
        &captured.environment
    }
}

/// Cloning a closure clones what it captured: this is how [`encode`] sees the environment inside an opaque type.
impl<E: Data> Clone for Captured<E> {
    fn clone(&self) -> Self {
        PROBE.with_borrow_mut(|probe| {
            if let Some(found) = probe {
                found.push(Found {
                    address: (&raw const *self).addr(),
                    decoder: reference::<DecodeCaptured<E>>(),
                    bytes: crate::codec::encode(&*self.environment),
                });
            }
        });
        Self { environment: Arc::clone(&self.environment) }
    }
}

/// One environment met while a function was cloned.
struct Found {
    address: usize,
    decoder: FunctionRef,
    bytes: Result<Vec<u8>, Error>,
}

thread_local! {
    /// The environments met so far, while [`encode`] clones a function.
    static PROBE: RefCell<Option<Vec<Found>>> = const { RefCell::new(None) };
}

/// The entry that writes a decoded `Captured<E>` to where a closure is to be.
struct DecodeCaptured<E>(E);

/// Writes a `Captured` of the body's next value to an address.
type DecodeInto = fn(&mut BodyReader<'_>, *mut MaybeUninit<Captured<()>>) -> Result<(), Error>;

impl<E: Data> Named for DecodeCaptured<E> {
    type Value = DecodeInto;

    fn value() -> DecodeInto {
        |body, target| {
            let captured = Captured { environment: Arc::new(body.value::<E>()?) };
            // SAFETY: every `Captured` has the same size and alignment, and the caller gives room for one.
            unsafe { target.cast::<Captured<E>>().write(captured) };
            Ok(())
        }
    }
}

/// Refuses, when the program is built, a function that captures variables by itself.
#[inline]
pub const fn assert_portable<F>() {
    const {
        assert!(
            size_of::<F>() == 0 || (size_of::<F>() == CAPTURED_LAYOUT && align_of::<F>() == CAPTURED_LAYOUT),
            "this function captures variables, which cannot be sent as they are: name them with \
             `task!(move [a, &b] |x| ..)`, or hand them over with `map_with(env, |env, x| ..)` and its like"
        );
    }
}

/// Writes what a function captured.
///
/// # Errors
/// When a variable cannot be encoded, or the function has captured by other means than [`Captured`].
pub(crate) fn encode<F: Function>(function: &F, body: &mut BodyWriter) -> Result<(), Error> {
    assert_portable::<F>();
    if size_of::<F>() == 0 {
        return Ok(());
    }
    struct Armed;
    impl Drop for Armed {
        fn drop(&mut self) {
            PROBE.set(None);
        }
    }
    let armed = Armed;
    PROBE.set(Some(Vec::new()));
    drop(function.clone());
    let found = PROBE.take().unwrap_or_default();
    drop(armed);
    // The proof that `decode` relies on: the closure is this one value and nothing else, in this very executable.
    let [Found { address, decoder, bytes }] =
        <[Found; 1]>::try_from(found).map_err(|_| Error::ForeignCapture(type_name::<F>()))?;
    if address != (&raw const *function).addr() {
        return Err(Error::ForeignCapture(type_name::<F>()));
    }
    body.value(&decoder)?;
    body.raw(&bytes?);
    Ok(())
}

/// Makes the function again.
///
/// # Errors
/// When its environment cannot be decoded, or the body is of another executable.
pub(crate) fn decode<F: Function>(body: &mut BodyReader<'_>) -> Result<F, Error> {
    assert_portable::<F>();
    let mut function = MaybeUninit::<F>::uninit();
    if size_of::<F>() > 0 {
        let decoder: DecodeInto = resolve(body.value()?)?;
        decoder(body, function.as_mut_ptr().cast())?;
    }
    // SAFETY: a type without bytes has one value, and the sender had it. Otherwise `encode` has proven for this type
    // that its value is one `Captured`, as large as the type itself; and the decoder that it named, checked by
    // fingerprint, has just written that.
    Ok(unsafe { function.assume_init() })
}

/// The one value of a function type without captures.
pub fn conjure<F: Function>() -> F {
    const { assert!(size_of::<F>() == 0) };
    // SAFETY: the type has no bytes to read, and whoever names it here had a value of it.
    unsafe { NonNull::<F>::dangling().read() }
}

/// Makes a function of named variables and a closure: `task!(move [threshold, &table] |x| table.contains(x))`.
///
/// The variables are cloned when the function is made and encoded once per stage. In the closure, `name` is a value
/// (cloned for each call: for numbers and handles) and `&name` a reference. No other variable can be used.
///
/// # Examples
/// ```
/// use rdd::task;
///
/// let (factor, words) = (3, vec!["a".to_owned(), "b".to_owned()]);
/// let scale = task!(move [factor] |x: u64| x * factor);
/// let word = task!(move [&words] |i: usize| words[i].clone());
/// assert_eq!((scale(2), word(1)), (6, "b".to_owned()));
/// ```
#[macro_export]
macro_rules! task {
    (move [$($captures:tt)*] | $($closure:tt)*) => { $crate::task!(@captures [] [] [$($captures)*] [$($closure)*]) };
    (@captures [$($all:ident)*] [$($value:ident)*] [& $name:ident $(, $($rest:tt)*)?] $closure:tt) => {
        $crate::task!(@captures [$($all)* $name] [$($value)*] [$($($rest)*)?] $closure)
    };
    (@captures [$($all:ident)*] [$($value:ident)*] [$name:ident $(, $($rest:tt)*)?] $closure:tt) => {
        $crate::task!(@captures [$($all)* $name] [$($value)* $name] [$($($rest)*)?] $closure)
    };
    (@captures $all:tt $value:tt [] [$($closure:tt)*]) => { $crate::task!(@arguments $all $value [] $($closure)*) };
    (@arguments [$($all:ident)*] [$($value:ident)*] [$($arguments:tt)*] | $body:expr) => {{
        let captured = $crate::function::Captured::new(($(::core::clone::Clone::clone(&$all),)*));
        move |$($arguments)*| {
            let ($($all,)*) = $crate::function::Captured::get(&captured);
            $(let $value = ::core::clone::Clone::clone($value);)*
            $body
        }
    }};
    (@arguments $all:tt $value:tt [$($arguments:tt)*] $next:tt $($rest:tt)*) => {
        $crate::task!(@arguments $all $value [$($arguments)* $next] $($rest)*)
    };
    ($($other:tt)*) => { compile_error!("a task is written `task!(move [a, &b] |x| ..)`") };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back<F: Function>(function: &F) -> F {
        let mut writer = BodyWriter::new();
        encode(function, &mut writer).unwrap();
        let bytes = writer.finish();
        let mut reader = BodyReader::new(&bytes).unwrap();
        let back = decode(&mut reader).unwrap();
        reader.finish().unwrap();
        back
    }

    #[test]
    fn a_function_without_captures_travels_without_a_byte() {
        let f = there_and_back(&|x: u32| x + 1);
        assert_eq!(f(1), 2);
        let item = there_and_back(&u32::count_ones);
        assert_eq!(item(7), 3);
    }

    #[test]
    fn what_a_function_captured_arrives() {
        let (factor, names) = (7u64, vec!["a".to_owned(), "b".to_owned()]);
        let f = there_and_back(&task!(move [factor, &names] |x: u64| (x * factor, names.join("+"))));
        assert_eq!(f(6), (42, "a+b".to_owned()));
    }

    #[test]
    fn a_closure_that_is_aligned_alike_but_not_ours_is_refused() {
        #[derive(Clone)]
        #[repr(align(256))]
        struct Aligned(u8);
        let aligned = Aligned(1);
        let f = move |x: u8| {
            let aligned = &aligned;
            x + aligned.0
        };
        assert!(matches!(encode(&f, &mut BodyWriter::new()), Err(Error::ForeignCapture(_))));
    }

    struct Seven;

    impl Named for Seven {
        type Value = u32;

        fn value() -> u32 {
            7
        }
    }

    #[test]
    fn a_reference_names_its_entry_and_no_other() {
        let seven = reference::<Seven>();
        assert_eq!(resolve::<u32>(seven).unwrap(), 7);
        assert!(matches!(resolve::<String>(seven), Err(Error::OtherFunction { .. })), "another type of value");
        let forged = FunctionRef { fingerprint: 1, ..seven };
        assert!(matches!(resolve::<u32>(forged), Err(Error::OtherFunction { .. })));
        let beyond = FunctionRef { index: u32::MAX, ..seven };
        assert!(matches!(resolve::<u32>(beyond), Err(Error::UnknownFunction { index: u32::MAX, .. })));
    }
}

//! What becomes of a panic in code of the user's?

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::Once;

use crate::{Failure, FailureKind};

/// The longest text of a panic that travels; what is cut off is said.
const PANIC_TEXT_MAX: usize = 16 << 10;

thread_local! {
    /// Whether panics of this thread are contained here, and so not printed.
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
    /// Where the last contained panic of this thread happened.
    static LOCATION: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs code of the user's; a panic becomes a failure that says where it happened and what it said, and is not printed. `what`
/// says what was tried.
///
/// # Errors
/// The code panicked: [`FailureKind::UserCode`].
///
/// # Example
/// ```
/// let failure = model::panic::contain::<()>(|| panic!("row {}", 17), || "add rows".into()).unwrap_err();
/// assert_eq!(failure.message, "add rows");
/// assert!(failure.chain[0].ends_with("row 17"));
/// ```
pub fn contain<T>(code: impl FnOnce() -> T, what: impl FnOnce() -> String) -> Result<T, Failure> {
    install_hook();
    let outer = CONTAINED.replace(true);
    LOCATION.set(None);
    let result = catch_unwind(AssertUnwindSafe(code));
    CONTAINED.set(outer);
    let panic = match result {
        Ok(result) => return Ok(result),
        Err(panic) => panic,
    };
    let text = text_of(&*panic);
    // A payload may panic again when it is dropped; then it is leaked.
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        std::mem::forget(again);
    }
    let place = LOCATION.take().map(|place| format!(" at {place}")).unwrap_or_default();
    let kind = FailureKind::UserCode { panicked: true, transient: false };
    Err(Failure::new(kind, what()).caused_by(format!("panicked{place}: {text}")))
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (None, Some(text)) => text.as_str(),
        (None, None) => "with a value that is no text",
    };
    if text.len() <= PANIC_TEXT_MAX {
        return text.to_owned();
    }
    format!("{} … ({} bytes)", &text[..text.floor_char_boundary(PANIC_TEXT_MAX)], text.len())
}

/// Remembers where contained panics happen; all others go to the hook that was there before.
fn install_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic: &PanicHookInfo<'_>| {
            if CONTAINED.get() {
                LOCATION.set(panic.location().map(ToString::to_string));
            } else {
                others(panic);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caught(code: impl FnOnce()) -> Failure {
        contain(code, || "compute partition 7 of `map at main.rs:3`".into()).unwrap_err()
    }

    #[test]
    fn a_panic_becomes_a_failure_with_its_place_and_text() {
        let line = line!() + 1;
        let failure = caught(|| panic!("bad row {}", 17));
        assert_eq!(failure.kind, FailureKind::UserCode { panicked: true, transient: false });
        assert_eq!(failure.message, "compute partition 7 of `map at main.rs:3`");
        let [cause] = &failure.chain[..] else { panic!("{failure}") };
        assert!(cause.starts_with(&format!("panicked at {}:{line}:", file!())), "{cause}");
        assert!(cause.ends_with(": bad row 17"), "{cause}");
    }

    #[test]
    fn a_payload_that_is_no_text_or_panics_in_turn_is_contained_too() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("again");
            }
        }
        let failure = caught(|| std::panic::panic_any(Bomb));
        assert!(failure.chain[0].ends_with("with a value that is no text"), "{failure}");
        let failure = caught(|| std::panic::panic_any("é".repeat(PANIC_TEXT_MAX)));
        assert!(failure.chain[0].len() < PANIC_TEXT_MAX + 200, "{}", failure.chain[0].len());
    }

    #[test]
    fn what_does_not_panic_passes() {
        assert_eq!(contain(|| 3, String::new), Ok(3));
        let failure = Failure::new(FailureKind::Query, "no such column");
        assert_eq!(contain(|| Err::<(), _>(failure.clone()), String::new).flatten(), Err(failure));
    }
}

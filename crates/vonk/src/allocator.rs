//! What do binaries allocate with, and when does freed memory go back to the system?
//!
//! Executors allocate and free from many threads, and mimalloc keeps what was freed for a second: allocating anew what has just
//! been freed is most of what queries do, and costs a third of their time if it goes back at once. A second of it is more than
//! they use, though, and a pod above its limit is killed. So it goes back at once where memory is short; and in drivers whose
//! executors are elsewhere, which plan, wait and hand rows on.
//! Huge pages are not asked for: they make both figures worse.

use std::ffi::c_long;
use std::thread;
use std::time::Duration;

use libmimalloc_sys::{mi_collect, mi_option_get, mi_option_set, mi_option_t};
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// How often a process looks at its memory. A core touches some 40 MB of fresh memory in this time.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Memory is short above this part of what there is, in percent: the working pool, shuffles and code have what is live.
const SHORT_PERCENT: u64 = 50;

/// And is not short any more below this part.
const ENOUGH_PERCENT: u64 = 40;

/// For how many milliseconds mimalloc keeps what was freed: `mi_option_purge_delay` of mimalloc.h, which the crate does not name.
const PURGE_DELAY: mi_option_t = 15;

/// Sees from now on that what was freed goes back to the system when this process has most of the bytes that it may use.
pub(crate) fn keep_below(memory: u64) {
    let watch = move || {
        let (usual, mut short) = (kept(), false);
        loop {
            #[expect(clippy::disallowed_methods, reason = "nobody tells when memory is short")]
            thread::sleep(LOOK_EVERY);
            let Some(used) = used() else { return };
            if is_short(short, used, memory) == short {
                continue;
            }
            short = !short;
            tracing::debug!(used, memory, short, "memory that is freed goes back at once if memory is short");
            if short {
                give_back();
            }
            keep(if short { 0 } else { usual });
        }
    };
    if let Err(error) = thread::Builder::new().name("memory".into()).spawn(watch) {
        tracing::warn!(%error, "watch memory: freed memory goes back to the system after a second");
    }
}

/// From now on, what was freed goes back to the system at once.
pub(crate) fn keep_nothing() {
    give_back();
    keep(0);
}

fn is_short(was_short: bool, used: u64, memory: u64) -> bool {
    used > memory / 100 * if was_short { ENOUGH_PERCENT } else { SHORT_PERCENT }
}

/// The bytes of this process that the system cannot take back: resident, without those of files.
fn used() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"))?;
    Some(anonymous.parse::<u64>().ok()? << 10)
}

#[expect(unsafe_code, reason = "the allocator is written in C")]
fn give_back() {
    // SAFETY: mimalloc allows it from every thread at any time.
    unsafe { mi_collect(true) }
}

#[expect(unsafe_code, reason = "the allocator is written in C")]
fn kept() -> c_long {
    // SAFETY: mimalloc allows it from every thread at any time.
    unsafe { mi_option_get(PURGE_DELAY) }
}

#[expect(unsafe_code, reason = "the allocator is written in C")]
fn keep(milliseconds: c_long) {
    // SAFETY: mimalloc allows it from every thread at any time; a number that it does not know is ignored.
    unsafe { mi_option_set(PURGE_DELAY, milliseconds) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_short_until_there_is_clearly_enough() {
        assert!(!is_short(false, 500, 1_000));
        assert!(is_short(false, 501, 1_000));
        assert!(is_short(true, 401, 1_000));
        assert!(!is_short(true, 400, 1_000));
    }

    #[test]
    fn what_is_touched_is_used_and_what_is_freed_goes_back() {
        assert_eq!(kept(), 1_000, "it is the option that is meant");
        let before = used().unwrap();
        let held = vec![1_u8; 256 << 20];
        assert!(used().unwrap() > before + (200 << 20));
        drop(std::hint::black_box(held));
        let freed = used().unwrap();
        // Another thread may do the same just then.
        let goes_back = (0..1_000).any(|_| {
            give_back();
            used().unwrap() < freed - (200 << 20)
        });
        assert!(goes_back, "{before} {freed} {:?}", used());
    }
}

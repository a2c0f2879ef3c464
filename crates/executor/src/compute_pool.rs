//! On which threads do tasks compute?
//!
//! A rayon pool with one thread per slot, apart from the runtime that does I/O: user code may block and never keeps a
//! heartbeat waiting. A thread that has begun to take tasks goes on until none waits, so a busy executor does not spawn
//! per task. Between tasks the threads are rayon's, and code that splits its own work finds them there.

use std::cell::Cell;
use std::sync::Arc;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::slots::Slots;
use crate::surroundings::Surroundings;
use crate::task::ReadyTask;

/// The stack of a compute thread, as large as a main thread's: user code may recurse. Only touched pages count.
const STACK: usize = 8 << 20;

thread_local! {
    /// Whether a task runs on this thread. Rayon may give a thread that waits inside of one other work to do.
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

/// The threads that compute.
pub(crate) struct ComputePool {
    threads: ThreadPool,
    slots: Arc<Slots>,
    around: Arc<Surroundings>,
}

impl ComputePool {
    /// Starts a thread per slot.
    ///
    /// # Errors
    /// The system gives no threads.
    pub(crate) fn start(slots: u32, around: Surroundings) -> Result<Self, rayon::ThreadPoolBuildError> {
        let threads = ThreadPoolBuilder::new()
            .num_threads(slots as usize)
            .stack_size(STACK)
            .thread_name(|n| format!("compute-{n}"))
            // Tasks are contained; what is left is the dropping of their bodies.
            .panic_handler(|_| tracing::error!("user code panicked outside of a task"))
            .build()?;
        Ok(Self { threads, slots: Arc::new(Slots::new(slots)), around: Arc::new(around) })
    }

    pub(crate) fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }

    pub(crate) fn around(&self) -> &Surroundings {
        &self.around
    }

    /// Runs tasks in this order as slots become free.
    pub(crate) fn run(&self, tasks: impl IntoIterator<Item = ReadyTask>) {
        for _ in 0..self.slots.queue(tasks) {
            let (slots, around) = (self.slots.clone(), self.around.clone());
            self.threads.spawn(move || take_tasks(&slots, &around));
        }
    }

    /// Does something that may be slow or panic, and that nobody waits for, such as dropping a value of the user's.
    pub(crate) fn do_there(&self, what: impl FnOnce() + Send + 'static) {
        self.threads.spawn(what);
    }
}

fn take_tasks(slots: &Slots, around: &Surroundings) {
    if BUSY.replace(true) {
        // This thread waits inside of a task and was given this as other work. That task must not wait for a whole one.
        return slots.give_up();
    }
    let mut computed = None;
    while let Some(task) = slots.take(computed) {
        computed = Some(task.run(around));
    }
    BUSY.set(false);
}

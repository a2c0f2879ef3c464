//! Out of what is an executor made, once its driver has said hello?

use std::path::PathBuf;
use std::sync::Arc;

use model::messages::Hello;
use model::setting::Values;
use model::{AppId, Epoch, ExecutorId, Failure, FailureKind};
use object_store::ObjectStore;
use object_store::path::Path;
use shuffle::{Budget, ShuffleRuntime};
use tokio::runtime::Handle;

use crate::blocks::{Blocks, Remote};
use crate::compute_pool::ComputePool;
use crate::config;
use crate::memory::{Pool, working_bytes};
use crate::printed::Own;
use crate::spill::SpillDir;
use crate::task::BodyRunner;

/// Who this executor is.
#[derive(Debug, Clone)]
pub(crate) struct Me {
    pub(crate) app: AppId,
    pub(crate) epoch: Epoch,
    pub(crate) executor: ExecutorId,
    pub(crate) program: String,
    pub(crate) disk: PathBuf,
    pub(crate) disk_taken: u64,
    pub(crate) printed: Option<Arc<Own>>,
}

/// What this executor has to work with.
#[derive(Clone)]
pub(crate) struct Means {
    pub(crate) slots: u32,
    pub(crate) memory: u64,
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) root: Path,
    pub(crate) settings: Values,
}

impl Means {
    /// What a driver gives an executor in a process of its own.
    ///
    /// # Errors
    /// The store cannot be opened.
    pub(crate) fn of(hello: &Hello) -> Result<Self, Failure> {
        let (store, root) = shuffle::store::open(&hello.store).map_err(shuffle::Error::into_failure)?;
        Ok(Self { slots: hello.slots, memory: hello.memory, store, root, settings: hello.settings.clone() })
    }
}

/// What all attempts on an executor share.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) app: AppId,
    pub(crate) epoch: Epoch,
    pub(crate) executor: ExecutorId,
    pub(crate) shuffle: ShuffleRuntime,
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) root: Path,
    pub(crate) io: Handle,
    pub(crate) pool: Arc<Pool>,
    pub(crate) blocks: Blocks,
    pub(crate) spill: SpillDir,
    pub(crate) settings: Arc<Values>,
    pub(crate) printed: Option<Arc<Own>>,
    pub(crate) runner: Arc<dyn BodyRunner>,
}

/// Divides the memory and starts the compute threads.
///
/// # Errors
/// A setting does not fit, or the system gives no threads: every task fails with it.
pub(crate) fn set_up(me: &Me, means: Means, runner: Arc<dyn BodyRunner>, io: Handle) -> Result<ComputePool, Failure> {
    let Means { slots, memory, store, root, settings } = means;
    let &Me { app, epoch, executor, .. } = me;
    let slots = slots.max(1);
    let budget = Budget::from_settings(memory, slots, &settings)
        .map_err(|error| Failure::from_error(FailureKind::Query, &error))?;
    let pool = Pool::new(working_bytes(memory), slots);
    let most = config::disk_max(&settings).map_err(|error| Failure::from_error(FailureKind::Query, &error))?;
    let spill = SpillDir::new(me.disk.clone(), most.saturating_sub(me.disk_taken));
    let remote = Remote { app, epoch, store: store.clone(), root: root.clone(), io: io.clone() };
    let around = Surroundings {
        app,
        epoch,
        executor,
        shuffle: ShuffleRuntime::new(store.clone(), root.clone(), executor, budget, io.clone()),
        store,
        root,
        io,
        blocks: Blocks::new(pool.clone(), spill.clone(), remote),
        pool,
        spill: spill.clone(),
        settings: Arc::new(settings),
        printed: me.printed.clone(),
        runner,
    };
    let compute = ComputePool::start(slots, around)
        .map_err(|error| Failure::from_error(FailureKind::Internal, &error).caused_by("start the compute threads"))?;
    compute.do_there(move || spill.sweep());
    Ok(compute)
}

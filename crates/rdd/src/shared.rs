//! How do broadcasts go out, and accumulators come back, counted once?

use std::any::Any;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use model::messages::AccumulatorUpdate;
use model::{AccumulatorId, AppId, BroadcastId, Failure, FailureKind, keys};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::codec::{self, BodyReader, BodyWriter, Data};
use crate::compute::Task;
use crate::context::RddContext;
use crate::error::Error;
use crate::function::{Function, FunctionRef, Named, conjure, reference, resolve};

/// A broadcast of at most so many encoded bytes travels with the body of each stage that uses it; a larger one is
/// uploaded once (ARCHITECTURE.md, "a stage": the same bound as for bodies).
const ATTACHED_MAX: usize = 1 << 20;

/// A value that every executor has once: captured by a function as a handle, read by [`value`](Self::value).
///
/// The value goes when the last handle of the driver's program goes.
pub struct Broadcast<T: Data>(Arc<Handle<T>>);

struct Handle<T: Data> {
    app: AppId,
    id: BroadcastId,
    value: OnceLock<Arc<T>>,
    slot: Arc<Mutex<Slot>>,
    /// In the driver.
    origin: Option<Origin>,
}

struct Origin {
    context: RddContext,
    attachment: OnceLock<Attachment>,
}

/// How a broadcast's bytes come to an executor.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Attachment {
    Inline(Bytes),
    Stored { length: u64, hash: u64 },
}

impl<T: Data> Clone for Broadcast<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Data + fmt::Debug> fmt::Debug for Broadcast<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Broadcast").field(&self.0.id).finish()
    }
}

impl<T: Data> Broadcast<T> {
    pub(crate) fn new(context: &RddContext, value: T) -> Self {
        let (app, id) = (context.runner().app(), context.runner().ids().broadcast());
        let value = Arc::new(value);
        // Tasks in this process share the value itself.
        let slot = slot(app, id);
        *lock(&slot) = Slot::Value(Arc::clone(&value) as Arc<dyn Any + Send + Sync>);
        let origin = Origin { context: context.clone(), attachment: OnceLock::new() };
        Self(Arc::new(Handle { app, id, value: OnceLock::from(value), slot, origin: Some(origin) }))
    }

    /// The value. In a task: decoded by the first that asks, then shared by all tasks of the process.
    ///
    /// # Panics
    /// In a task, when the value's own `Deserialize` fails on what its `Serialize` wrote.
    #[must_use]
    #[inline]
    pub fn value(&self) -> &T {
        self.0.value.get_or_init(|| self.0.resolve())
    }
}

impl<T: Data> Handle<T> {
    #[cold]
    fn resolve(&self) -> Arc<T> {
        let mut slot = lock(&self.slot);
        if let Slot::Bytes(bytes) = &*slot {
            let value: T = codec::decode(bytes).unwrap_or_else(|error| panic!("read {}: {error}", self.id));
            *slot = Slot::Value(Arc::new(value));
        }
        match &*slot {
            Slot::Value(value) => match Arc::clone(value).downcast() {
                Ok(value) => value,
                Err(_) => panic!("read {}: its value has another type", self.id),
            },
            Slot::Empty | Slot::Bytes(_) => panic!("read {}: it was not fetched before the task began", self.id),
        }
    }
}

impl<T: Data> Drop for Handle<T> {
    fn drop(&mut self) {
        if let Some(origin) = &self.origin {
            lock(&BROADCASTS).remove(&(self.app, self.id));
            origin.context.runner().forget_broadcast(self.id);
        }
    }
}

/// A broadcast that a body being encoded uses.
trait Attachable: Send + Sync {
    fn app(&self) -> AppId;
    fn attachment(&self) -> Result<Attachment, Error>;
}

impl<T: Data> Attachable for Handle<T> {
    fn app(&self) -> AppId {
        self.app
    }

    fn attachment(&self) -> Result<Attachment, Error> {
        let (Some(origin), Some(value)) = (&self.origin, self.value.get()) else {
            return Err(Error::Invalid(format!("send {}: a task cannot send it on", self.id)));
        };
        if let Some(known) = origin.attachment.get() {
            return Ok(known.clone());
        }
        let bytes = Bytes::from(codec::encode(&**value)?);
        let attachment = if bytes.len() <= ATTACHED_MAX {
            Attachment::Inline(bytes)
        } else {
            let hash = xxhash_rust::xxh3::xxh3_64(&bytes);
            let attachment = Attachment::Stored { length: bytes.len() as u64, hash };
            let context = &origin.context;
            let key = context.root_key(&keys::broadcast(self.app, context.runner().epoch(), self.id));
            let put = context.store().put(&key, bytes.into());
            context.wait(put).map_err(|error| store_failure(format!("upload {}", self.id), &error))?;
            attachment
        };
        Ok(origin.attachment.get_or_init(|| attachment).clone())
    }
}

/// What a refusal of the store means for the task or job that met it.
pub(crate) fn store_failure(what: String, error: &object_store::Error) -> Failure {
    use object_store::Error as E;
    let kind = match error {
        E::NotFound { .. } => FailureKind::Internal,
        refused if shuffle::store::is_refusal(refused) => FailureKind::StoreDenied,
        _ => FailureKind::StoreUnavailable,
    };
    let cause = Failure::from_error(kind.clone(), error);
    let mut failure = Failure::new(kind, what).caused_by(cause.message);
    failure.chain.extend(cause.chain);
    failure
}

thread_local! {
    /// Broadcasts met while a stage's body is encoded in this thread.
    static MET: RefCell<Option<BTreeMap<BroadcastId, Arc<dyn Attachable>>>> = const { RefCell::new(None) };
    /// The application whose body is decoded in this thread.
    static DECODING: RefCell<Option<AppId>> = const { RefCell::new(None) };
    /// The task that runs in this thread.
    static CURRENT: RefCell<Option<Task>> = const { RefCell::new(None) };
}

impl<T: Data> Serialize for Broadcast<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let met = MET.with_borrow_mut(|met| {
            let handle = || Arc::clone(&self.0) as Arc<dyn Attachable>;
            met.as_mut().map(|met| met.entry(self.0.id).or_insert_with(handle)).is_some()
        });
        if !met {
            return Err(S::Error::custom("a broadcast variable is captured by a function, never part of a row"));
        }
        self.0.id.serialize(serializer)
    }
}

impl<'de, T: Data> Deserialize<'de> for Broadcast<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let id = BroadcastId::deserialize(deserializer)?;
        let app = DECODING.with_borrow(|app| *app);
        let app = app.ok_or_else(|| D::Error::custom("a broadcast variable outside a stage's body"))?;
        Ok(Self(Arc::new(Handle { app, id, value: OnceLock::new(), slot: slot(app, id), origin: None })))
    }
}

/// A body with the broadcasts that what `write` encodes has captured, in front of it.
pub(crate) fn with_attached(write: impl FnOnce(&mut BodyWriter) -> Result<(), Error>) -> Result<Bytes, Error> {
    struct Armed;
    impl Drop for Armed {
        fn drop(&mut self) {
            MET.set(None);
        }
    }
    let armed = Armed;
    MET.set(Some(BTreeMap::new()));
    let mut rest = BodyWriter::part();
    write(&mut rest)?;
    let met = MET.take().unwrap_or_default();
    drop(armed);
    let app = met.values().next().map(|met| met.app());
    let attachments =
        met.into_iter().map(|(id, met)| Ok((id, met.attachment()?))).collect::<Result<Vec<_>, Error>>()?;
    let mut body = BodyWriter::new();
    body.value(&(app, attachments))?;
    body.raw(&rest.finish());
    Ok(body.finish())
}

/// The broadcasts of a decoded body.
pub(crate) struct Attached {
    app: Option<AppId>,
    broadcasts: Vec<(BroadcastId, Attachment, Arc<Mutex<Slot>>)>,
}

impl Attached {
    pub(crate) fn read(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        let (app, attachments): (Option<AppId>, Vec<(BroadcastId, Attachment)>) = body.value()?;
        let broadcasts = app
            .iter()
            .flat_map(|&app| attachments.iter().map(move |(id, attachment)| (*id, attachment.clone(), slot(app, *id))));
        Ok(Self { app, broadcasts: broadcasts.collect() })
    }

    /// Marks this thread as decoding the rest of the body, until the guard goes.
    pub(crate) fn enter(&self) -> impl Drop {
        struct Scope(Option<AppId>);
        impl Drop for Scope {
            fn drop(&mut self) {
                DECODING.set(self.0.take());
            }
        }
        Scope(DECODING.replace(self.app))
    }

    /// Sees to it that every value, or its bytes, is in this process before a task asks for it.
    pub(crate) fn fetch(&self, task: &Task) -> Result<(), Error> {
        self.broadcasts.iter().try_for_each(|(id, attachment, slot)| {
            // Held while fetching: another task of the process that needs it waits instead of fetching it again.
            let mut slot = lock(slot);
            if matches!(*slot, Slot::Empty) {
                *slot = Slot::Bytes(match attachment {
                    Attachment::Inline(bytes) => bytes.clone(),
                    Attachment::Stored { length, hash } => fetch_stored(task, *id, *length, *hash)?,
                });
            }
            Ok(())
        })
    }
}

fn fetch_stored(task: &Task, id: BroadcastId, length: u64, hash: u64) -> Result<Bytes, Error> {
    let key = join(&task.env.root, &keys::broadcast(task.env.app, task.env.epoch, id));
    let get = async { task.env.store.get(&key).await?.bytes().await };
    let bytes = task.wait(get)?.map_err(|error| store_failure(format!("fetch {id}"), &error))?;
    if bytes.len() as u64 != length || xxhash_rust::xxh3::xxh3_64(&bytes) != hash {
        return Err(Failure::new(FailureKind::StoreUnavailable, format!("fetch {id}: damaged on its way")).into());
    }
    Ok(bytes)
}

/// A key under a store's root.
pub(crate) fn join(root: &Path, key: &str) -> Path {
    root.parts().chain(Path::from(key).parts()).collect()
}

/// Marks this thread as running a task, until the guard goes.
pub(crate) fn enter(task: &Task) -> impl Drop {
    struct Scope(Option<Task>);
    impl Drop for Scope {
        fn drop(&mut self) {
            CURRENT.set(self.0.take());
        }
    }
    Scope(CURRENT.replace(Some(task.clone())))
}

/// The broadcasts that this process holds. One table for all: an executor serves many tasks of one application.
static BROADCASTS: LazyLock<Mutex<Slots>> = LazyLock::new(Mutex::default);

type Slots = HashMap<(AppId, BroadcastId), Arc<Mutex<Slot>>>;

#[derive(Default)]
enum Slot {
    #[default]
    Empty,
    Bytes(Bytes),
    Value(Arc<dyn Any + Send + Sync>),
}

fn slot(app: AppId, id: BroadcastId) -> Arc<Mutex<Slot>> {
    Arc::clone(lock(&BROADCASTS).entry((app, id)).or_default())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Drops what this process holds of a broadcast: the driver said that it is not wanted any more.
///
/// What a prepared stage or a handle holds stays with it.
pub fn forget_broadcast(id: BroadcastId) {
    lock(&BROADCASTS).retain(|(_, known), _| *known != id);
}

/// A value that tasks add to and the driver reads: each successful task of an action counts once, whatever is retried.
///
/// What a transformation adds may count more than once if its rows are computed again for another action.
pub struct Accumulator<T: Data> {
    id: AccumulatorId,
    zero: Arc<T>,
    merge: fn(&mut T, T),
    merge_ref: FunctionRef,
    total: Option<Arc<Mutex<T>>>,
}

impl<T: Data> Clone for Accumulator<T> {
    fn clone(&self) -> Self {
        let Self { id, merge, merge_ref, .. } = *self;
        Self { id, zero: Arc::clone(&self.zero), merge, merge_ref, total: self.total.clone() }
    }
}

struct Merge<T, F>(PhantomData<fn(T, F)>);

impl<T: Data, F: Function + Fn(&mut T, T)> Named for Merge<T, F> {
    type Value = fn(&mut T, T);

    fn value() -> Self::Value {
        |total, added| {
            const { assert!(size_of::<F>() == 0, "the function that merges an accumulator captures nothing") };
            conjure::<F>()(total, added);
        }
    }
}

impl<T: Data + Clone> Accumulator<T> {
    pub(crate) fn new<F: Function + Fn(&mut T, T)>(context: &RddContext, zero: T, _merge: F) -> Self {
        let id = context.runner().ids().accumulator();
        let merge = Merge::<T, F>::value();
        let total = Arc::new(Mutex::new(zero.clone()));
        let weak = Arc::downgrade(&total);
        context.totals().insert(
            id,
            Box::new(move |bytes| {
                let Some(total) = weak.upgrade() else { return Ok(false) };
                merge(&mut lock(&total), codec::decode(bytes)?);
                Ok(true)
            }),
        );
        Self { id, zero: Arc::new(zero), merge, merge_ref: reference::<Merge<T, F>>(), total: Some(total) }
    }

    /// What has been added, by tasks that were accepted and by the driver itself.
    ///
    /// # Panics
    /// In a task: only the driver knows.
    #[must_use]
    pub fn value(&self) -> T {
        match &self.total {
            Some(total) => lock(total).clone(),
            None => panic!("read {} in a task: only the driver knows its value", self.id),
        }
    }

    /// Sets it back, as before anything was added.
    pub fn reset(&self) {
        if let Some(total) = &self.total {
            *lock(total) = (*self.zero).clone();
        }
    }

    /// Adds.
    pub fn add(&self, value: T) {
        CURRENT.with_borrow(|task| match (task, &self.total) {
            (Some(task), _) => task.accumulators.borrow_mut().add(self, value),
            (None, Some(total)) => (self.merge)(&mut lock(total), value),
            (None, None) => panic!("add to {} outside a task's thread", self.id),
        });
    }
}

impl<T: Data> Serialize for Accumulator<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.id, self.merge_ref, &*self.zero).serialize(serializer)
    }
}

impl<'de, T: Data> Deserialize<'de> for Accumulator<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (id, merge_ref, zero) = <(AccumulatorId, FunctionRef, T)>::deserialize(deserializer)?;
        let merge = resolve(merge_ref).map_err(D::Error::custom)?;
        Ok(Self { id, zero: Arc::new(zero), merge, merge_ref, total: None })
    }
}

/// What a task has added so far, by accumulator: few, so that a search is faster than a hash.
#[derive(Default)]
pub(crate) struct Buffers(Vec<(AccumulatorId, Box<dyn Buffer>)>);

trait Buffer: Any {
    fn encode(&self) -> Result<Vec<u8>, Error>;
}

impl<T: Data> Buffer for T {
    fn encode(&self) -> Result<Vec<u8>, Error> {
        codec::encode(self)
    }
}

impl Buffers {
    fn add<T: Data + Clone>(&mut self, accumulator: &Accumulator<T>, value: T) {
        let index = self.0.iter().position(|(id, _)| *id == accumulator.id).unwrap_or_else(|| {
            self.0.push((accumulator.id, Box::new((*accumulator.zero).clone())));
            self.0.len() - 1
        });
        let buffer: &mut dyn Any = &mut *self.0[index].1;
        let buffer = buffer.downcast_mut::<T>().expect("an accumulator's id belongs to one type");
        (accumulator.merge)(buffer, value);
    }

    pub(crate) fn take(&mut self) -> Result<Vec<AccumulatorUpdate>, Error> {
        let update = |(accumulator, buffer): (AccumulatorId, Box<dyn Buffer>)| {
            Ok(AccumulatorUpdate { accumulator, value: buffer.encode()?.into() })
        };
        self.0.drain(..).map(update).collect()
    }
}

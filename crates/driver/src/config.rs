//! What can be set about a driver?

use std::collections::BTreeMap;
use std::sync::Arc;

use model::ids::{AppId, Epoch};
use object_store::ObjectStore;
use object_store::path::Path;

use crate::executable::Executable;
use crate::observe::Observer;

/// What a driver is started with.
pub struct DriverConfig {
    /// The application.
    pub app: AppId,
    /// Its epoch.
    pub epoch: Epoch,
    /// What a person calls it.
    pub name: String,
    /// Its master, as the user wrote it.
    pub master: String,
    /// All settings that are not at their default, by key: checked by whoever read them, and told to executors.
    pub settings: BTreeMap<String, String>,
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// Its URL, told to executors.
    pub store_url: String,
    /// Its root.
    pub root: Path,
    /// Whether others may see it.
    pub scope: StoreScope,
    /// Slots of one executor.
    pub slots: u32,
    /// Memory of one executor, in bytes.
    pub memory: u64,
    /// How many executors there may be at most; all are asked for from the start.
    pub executors: u32,
    /// What this process runs; executors must run the same.
    pub executable: Executable,
    /// Who hears what happens.
    pub observers: Vec<Box<dyn Observer>>,
}

/// Who else may see what is written to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreScope {
    /// Nobody: memory, or a folder made for this process and removed after it. No lease is taken, nothing is cleaned.
    Private,
    /// Other applications, now and later: a lease is taken before the first object is written.
    Shared,
}

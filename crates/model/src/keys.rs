//! Under which object keys lies what?
//!
//! The only place that spells a key. All are relative to the store's root.

use xxhash_rust::xxh3::xxh3_64;

use crate::failure::ObjectRef;
use crate::ids::{
    AppId, AttemptId, BroadcastId, Epoch, Generation, JobId, PartitionId, RddId, ShuffleId, StageAttempt, StageId,
};

/// Where leases of applications lie.
pub const LEASES: &str = "shuffle/v1/_lease";

/// Where shuffles lie.
pub const SHUFFLES: &str = "shuffle/v1";

/// Where executables and files lie that applications share, each under its hash. Whoever uses one writes it anew now and
/// then: its age is the time since its last use.
pub const PROGRAMS: &str = "programs";

/// An executable or file, by the SHA-256 of its bytes in hex.
#[must_use]
pub fn program(hash: &str) -> String {
    format!("{PROGRAMS}/{hash}")
}

/// Where event logs lie, a folder for each application.
pub const HISTORY: &str = "history";

/// An application's lease: it claims the epoch, and is renewed while the driver lives.
#[must_use]
pub fn lease(app: AppId, epoch: Epoch) -> String {
    format!("{LEASES}/{app}-{:08x}", epoch.0)
}

/// The application and epoch of a lease's file name.
#[must_use]
pub fn parse_lease(name: &str) -> Option<(AppId, Epoch)> {
    let (app, epoch) = name.rsplit_once('-')?;
    Some((app.parse().ok()?, Epoch(u32::from_str_radix(epoch, 16).ok()?)))
}

/// An object among the leases that is written only to learn the store's clock; `reader` is an id made for it.
#[must_use]
pub fn lease_clock(reader: AppId) -> String {
    format!("{LEASES}/clock-{reader}")
}

/// An object of a shuffle. The hash comes first, with the same 256 prefixes for every application, so that request
/// capacity which a store grew for earlier ones serves the next.
#[must_use]
pub fn shuffle_object(
    app: AppId,
    epoch: Epoch,
    shuffle: ShuffleId,
    generation: Generation,
    object: ObjectRef,
) -> String {
    let mut id = [0u8; 38];
    id[..16].copy_from_slice(&app.0.to_le_bytes());
    id[16..20].copy_from_slice(&epoch.0.to_le_bytes());
    id[20..24].copy_from_slice(&shuffle.0.to_le_bytes());
    id[24..26].copy_from_slice(&generation.0.to_le_bytes());
    id[26..34].copy_from_slice(&object.executor.0.to_le_bytes());
    id[34..].copy_from_slice(&object.seq.to_le_bytes());
    let prefix = xxh3_64(&id) as u8;
    format!(
        "{SHUFFLES}/{prefix:02x}/{app}-{:08x}/s{:08x}-g{:04x}/{:016x}-{:08x}.vonk",
        epoch.0, shuffle.0, generation.0, object.executor.0, object.seq
    )
}

/// The 256 prefixes under which an application's shuffles lie.
pub fn shuffle_prefixes(app: AppId, epoch: Epoch) -> impl Iterator<Item = String> {
    (0..=255u8).map(move |prefix| format!("{SHUFFLES}/{prefix:02x}/{app}-{:08x}", epoch.0))
}

/// Everything of an application that goes when it ends.
#[must_use]
pub fn application(app: AppId) -> String {
    format!("apps/{app}")
}

/// A stage body too large for a message.
#[must_use]
pub fn body(app: AppId, epoch: Epoch, stage: StageId, attempt: StageAttempt) -> String {
    format!("apps/{app}/{}/bodies/{}-{}", epoch.0, stage.0, attempt.0)
}

/// A task's input too large for a message.
#[must_use]
pub fn input(app: AppId, epoch: Epoch, stage: StageId, partition: PartitionId) -> String {
    format!("apps/{app}/{}/inputs/{}/{}", epoch.0, stage.0, partition.0)
}

/// A task's result too large for a message; `object` makes it unique to the attempt that wrote it.
#[must_use]
pub fn result(app: AppId, epoch: Epoch, job: JobId, partition: PartitionId, object: ObjectRef) -> String {
    format!("apps/{app}/{}/results/{}/{}-{}-{}", epoch.0, job.0, partition.0, object.executor.0, object.seq)
}

/// A broadcast variable too large for a message.
#[must_use]
pub fn broadcast(app: AppId, epoch: Epoch, broadcast: BroadcastId) -> String {
    format!("apps/{app}/{}/broadcasts/{}", epoch.0, broadcast.0)
}

/// Where the partitions of a persisted dataset lie, if its level is the object store.
#[must_use]
pub fn cached_rdd(app: AppId, epoch: Epoch, rdd: RddId) -> String {
    format!("apps/{app}/{}/cached/{}", epoch.0, rdd.0)
}

/// One partition of a persisted dataset.
#[must_use]
pub fn cached_partition(app: AppId, epoch: Epoch, rdd: RddId, partition: PartitionId) -> String {
    format!("{}/{}", cached_rdd(app, epoch, rdd), partition.0)
}

/// Where an application notes the destinations it writes to, so that a sweep can finish or undo them.
#[must_use]
pub fn writes(app: AppId) -> String {
    format!("apps/{app}/writes")
}

/// The note of one write.
#[must_use]
pub fn write_note(app: AppId, epoch: Epoch, job: JobId) -> String {
    format!("apps/{app}/writes/{}-{}", epoch.0, job.0)
}

/// One partition of a checkpointed dataset, below the folder that the program chose; the attempt makes it unique to who
/// wrote it.
#[must_use]
pub fn checkpointed_partition(app: AppId, epoch: Epoch, rdd: RddId, attempt: AttemptId) -> String {
    format!("{app}-{}/rdd-{}/{:06}-{attempt}", epoch.0, rdd.0, attempt.partition.0)
}

/// A piece of an application's event log.
#[must_use]
pub fn event_log(app: AppId, epoch: Epoch, part: u32) -> String {
    format!("{HISTORY}/{app}/events-{}-{part:06}.jsonl", epoch.0)
}

/// The epoch of a piece of an event log, by the last part of its key.
#[must_use]
pub fn parse_event_log(name: &str) -> Option<Epoch> {
    let (epoch, part) = name.strip_prefix("events-")?.strip_suffix(".jsonl")?.split_once('-')?;
    part.parse::<u32>().ok()?;
    epoch.parse().ok().map(Epoch)
}

/// Where the history of an application lies.
#[must_use]
pub fn history(app: AppId) -> String {
    format!("{HISTORY}/{app}")
}

/// Where the ends of an application's logs lie.
#[must_use]
pub fn logs(app: AppId) -> String {
    format!("{HISTORY}/{app}/logs")
}

/// The end of a log, of `who`: `driver`, or an executor as in `e3`.
#[must_use]
pub fn log(app: AppId, epoch: Epoch, who: &str) -> String {
    format!("{HISTORY}/{app}/logs/{:08}-{who}.log", epoch.0)
}

/// The epoch, and of whom it is, of a log's file name.
#[must_use]
pub fn parse_log(name: &str) -> Option<(Epoch, &str)> {
    let (epoch, who) = name.strip_suffix(".log")?.split_once('-')?;
    Some((Epoch(epoch.parse().ok()?), who))
}

/// How an application is: written by its driver while it runs, and last at its end.
#[must_use]
pub fn status(app: AppId) -> String {
    format!("{HISTORY}/{app}/status.json")
}

/// Which application was submitted as the root of that name, for as long as history is kept: longer than the root.
#[must_use]
pub fn submitted(root: &str) -> String {
    format!("{HISTORY}/{root}/submitted.json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ExecutorId;

    #[test]
    fn a_shuffle_object_lies_under_one_of_its_prefixes() {
        let (app, epoch) = (AppId(7), Epoch(1));
        let key =
            shuffle_object(app, epoch, ShuffleId(2), Generation(0), ObjectRef { executor: ExecutorId(3), seq: 9 });
        assert_eq!(shuffle_prefixes(app, epoch).filter(|p| key.starts_with(p.as_str())).count(), 1, "{key}");
        assert!(key.ends_with("/s00000002-g0000/0000000000000003-00000009.vonk"), "{key}");
    }

    #[test]
    fn a_logs_name_reads_back() {
        let key = log(AppId(7), Epoch(12), "e3");
        assert_eq!(parse_log(key.rsplit('/').next().unwrap()), Some((Epoch(12), "e3")));
        assert_eq!(parse_log("events-1-000000.jsonl"), None);
    }

    #[test]
    fn a_lease_name_reads_back() {
        let key = lease(AppId(7), Epoch(258));
        assert_eq!(parse_lease(key.rsplit('/').next().unwrap()), Some((AppId(7), Epoch(258))));
        assert_eq!(parse_lease("garbage"), None);
        let log = event_log(AppId(7), Epoch(12), 3);
        assert_eq!(parse_event_log(log.rsplit('/').next().unwrap()), Some(Epoch(12)));
        assert_eq!(parse_event_log("logs"), None);
        assert_eq!(parse_lease(lease_clock(AppId(7)).rsplit('/').next().unwrap()), None);
    }
}

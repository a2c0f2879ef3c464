//! Is a write all there or not there at all, exactly once, wherever its driver dies?
//!
//! Each walk runs one small write again and again, and lets something happen at its first request, at its second, and
//! so on to its last: the driver dies, and so does whoever tidies up after it; a reply is lost; another writer comes in
//! between; the driver was not dead but slow. Afterwards everything must follow from the log. The controls leave a step
//! of the commit out, and each must make a walk fail.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use futures::future;
use model::ids::{StageAttempt, StageId};
use model::write::{self, StagedFile, WriteId, WriteMode, WriteTarget};
use model::{AppId, AttemptId, Epoch, JobId, PartitionId};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use shuffle::testing::{Chaos, ChaosStore, Fault, Latency, Rule, SimStore, Verb};

use super::log::{Decision, Entry, Log};
use super::store::Files;
use super::*;

const MODES: [WriteMode; 4] = [WriteMode::ErrorIfExists, WriteMode::Append, WriteMode::Overwrite, WriteMode::Ignore];

/// Why a walk failed.
type Broken = String;

/// Where a walk takes place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Memory,
    LocalFiles,
}

/// A destination of its own, with what lay there before.
struct World {
    store: Arc<dyn ObjectStore>,
    before: Vec<String>,
    timing: Timing,
    _folder: Option<tempfile::TempDir>,
}

/// What a driver knows of its write when it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Committed,
    NotWritten(String),
    Unknown(String),
}

fn id(job: u32) -> WriteId {
    WriteId { app: AppId(1), epoch: Epoch(1), job: JobId(job) }
}

fn rows_of(job: u32) -> Vec<String> {
    (0..2).flat_map(|partition| (0..2).map(move |row| format!("w{job}-{partition}-{row}"))).collect()
}

fn destination(store: Arc<dyn ObjectStore>) -> Destination {
    Destination { store, path: Path::from("data/out"), url: "memory:///data/out".to_owned() }
}

/// One driver and its tasks: from the start of a write to its end.
async fn drive(store: Arc<dyn ObjectStore>, job: u32, mode: WriteMode, timing: Timing) -> Outcome {
    let target = WriteTarget { destination: "memory:///data/out".to_owned(), mode, write: id(job) };
    let application = (Arc::clone(&store), Path::from("app"));
    let commit = match Commit::start(destination(Arc::clone(&store)), application, &target, timing).await {
        Ok(Started::Writing(commit)) => commit,
        Ok(Started::Ignored) => return Outcome::NotWritten("ignored".to_owned()),
        Err(error) => return Outcome::NotWritten(error.into_failure().to_string()),
    };
    let mut staged = Vec::new();
    for partition in 0..2 {
        let attempt = AttemptId {
            job: JobId(job),
            stage: StageId(0),
            stage_attempt: StageAttempt(0),
            partition: PartitionId(partition),
            attempt: 0,
        };
        let text: String = (0..2).map(|row| format!("w{job}-{partition}-{row}\n")).collect();
        let file = StagedFile {
            staged: write::staged_name(id(job), &attempt, 0),
            published: write::published_name(id(job), "k=a b/", attempt.partition, 0, "txt"),
            bytes: text.len() as u64,
            rows: 2,
            fingerprint: u64::from(partition) + 1,
        };
        let key = commit.files().key(&file.staged);
        // A task is tried again; so is its request.
        let put = || tokio::time::timeout(Duration::from_secs(10), store.put(&key, text.clone().into()));
        while !matches!(put().await, Ok(Ok(_))) {}
        staged.push(file);
    }
    match commit.publish(staged).await {
        Ok(report) if report.files == 0 => Outcome::NotWritten("ignored".to_owned()),
        Ok(report) if report.rows == 4 => Outcome::Committed,
        Ok(report) => Outcome::Unknown(format!("{report:?}")),
        Err(error) => match commit.abort().await {
            Ok(Abandoned::Undone) => Outcome::NotWritten(error.into_failure().to_string()),
            Ok(Abandoned::Committed(_)) => Outcome::Committed,
            Err(again) => Outcome::Unknown(format!("{}; {}", error.into_failure(), again.into_failure())),
        },
    }
}

impl World {
    /// Writes that must find nothing find nothing; others an earlier write and a file of somebody else's.
    async fn new(place: Place, mode: WriteMode, left_out: Option<Step>) -> Self {
        let (store, folder): (Arc<dyn ObjectStore>, _) = match place {
            Place::Memory => (Arc::new(InMemory::new()), None),
            Place::LocalFiles => {
                let folder = tempfile::tempdir().unwrap();
                (Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap()), Some(folder))
            }
        };
        Self::over(store, folder, mode, left_out).await
    }

    async fn over(
        store: Arc<dyn ObjectStore>,
        folder: Option<tempfile::TempDir>,
        mode: WriteMode,
        left_out: Option<Step>,
    ) -> Self {
        let timing = Timing { left_out, ..Timing::default() };
        let mut before = Vec::new();
        if matches!(mode, WriteMode::Append | WriteMode::Overwrite) {
            store.put(&Path::from("data/out/foreign.txt"), "foreign\n".into()).await.unwrap();
            assert_eq!(drive(Arc::clone(&store), 0, WriteMode::Append, timing.clone()).await, Outcome::Committed);
            before = rows_of(0);
            before.push("foreign".to_owned());
        }
        Self { store, before, timing, _folder: folder }
    }

    fn chaos(&self, chaos: Chaos) -> (ChaosStore, Arc<dyn ObjectStore>) {
        let store = ChaosStore::new(Arc::clone(&self.store), chaos);
        (store.clone(), Arc::new(store))
    }

    /// As somebody sees it for whom every lease has expired.
    fn impatient(&self) -> Timing {
        Timing { lease_expires: Duration::ZERO, ..self.timing.clone() }
    }

    async fn rows(&self) -> Result<Vec<String>, Broken> {
        let there = read_committed(&destination(Arc::clone(&self.store)), &self.timing).await;
        let mut rows = Vec::new();
        for meta in there.map_err(|error| error.into_failure().to_string())? {
            let bytes = self.store.get(&meta.location).await.unwrap().bytes().await.unwrap();
            rows.extend(String::from_utf8(bytes.to_vec()).unwrap().lines().map(str::to_owned));
        }
        rows.sort();
        Ok(rows)
    }

    /// The last process to tidy up, which nothing befalls; then everything is as the log says.
    async fn tidy(&self) -> Result<(), Broken> {
        self.tidied().await?;
        let destination = destination(Arc::clone(&self.store));
        let files = Files { destination: &destination, timing: &self.timing };
        let log = files.log().await.unwrap();
        let mut any = false;
        for number in log.entries() {
            any |= files.read_entry(number).await.unwrap().unwrap().is_commit();
        }
        if any != files.look(write::SUCCESS).await.unwrap().is_some() {
            return Err(format!("_SUCCESS does not say whether anything is there: {any}"));
        }
        Ok(())
    }

    /// `_SUCCESS` speaks of a write whose files are there, or is not there: a driver that slept may delete that of another
    /// one, but never says that a write is there which an overwrite has replaced.
    async fn announced(&self) -> Result<(), Broken> {
        let destination = destination(Arc::clone(&self.store));
        let files = Files { destination: &destination, timing: &self.timing };
        let Some((found, _)) = files.read(write::SUCCESS).await.unwrap() else { return Ok(()) };
        let mut there = Vec::new();
        for number in files.log().await.unwrap().entries() {
            let entry = files.read_entry(number).await.unwrap().unwrap();
            let Decision::Commit { mode, .. } = entry.decision else { continue };
            if mode == WriteMode::Overwrite {
                there.clear();
            }
            there.push(entry.success(number));
        }
        if there.iter().any(|success| *success == found) {
            Ok(())
        } else {
            Err(format!("_SUCCESS is stale: {found:?}"))
        }
    }

    /// All but `_SUCCESS`.
    async fn tidied(&self) -> Result<(), Broken> {
        let destination = destination(Arc::clone(&self.store));
        let timing = self.impatient();
        repair(&destination, &timing).await.map_err(|error| format!("repair: {}", error.into_failure()))?;
        let again = repair(&destination, &timing).await.map_err(|error| format!("repair: {}", error.into_failure()))?;
        if again != Repaired::default() {
            return Err(format!("a second repair found something to do: {again:?}"));
        }
        let files = Files { destination: &destination, timing: &timing };
        let listed = files.list("").await.unwrap();
        let log = Log::new(&listed);
        if let Some(number) = log.unfinished().next() {
            return Err(format!("entry {number} is unfinished"));
        }
        let names = || listed.iter().map(|(name, _)| name.as_str());
        if let Some(left) = names().find(|name| name.starts_with("_vonk/") && !name.starts_with("_vonk/log/")) {
            return Err(format!("{left} is left"));
        }
        let mut want: BTreeSet<String> =
            self.before.iter().any(|row| row == "foreign").then(|| "foreign.txt".to_owned()).into_iter().collect();
        for number in log.entries() {
            let Entry { decision, .. } = files.read_entry(number).await.unwrap().unwrap();
            if let Decision::Commit { files, deletes, .. } = decision {
                want.retain(|name| !deletes.contains(name));
                want.extend(files.into_iter().map(|file| file.published));
            }
        }
        let there: BTreeSet<String> = names().filter(|name| !write::is_hidden(name)).map(str::to_owned).collect();
        if there != want {
            return Err(format!("the log says {want:?}, and there is {there:?}"));
        }
        Ok(())
    }

    /// The rows after these writes, in this order; none if they cannot have been committed in it.
    fn after(&self, writes: &[(u32, WriteMode)]) -> Option<Vec<String>> {
        let mut rows = self.before.clone();
        for (job, mode) in writes {
            match mode {
                WriteMode::ErrorIfExists | WriteMode::Ignore if !rows.is_empty() => return None,
                WriteMode::Overwrite => rows.clear(),
                WriteMode::ErrorIfExists | WriteMode::Ignore | WriteMode::Append => {}
            }
            rows.extend(rows_of(*job));
        }
        rows.sort();
        Some(rows)
    }

    /// Some order of the writes that say they were committed explains the rows, and none ended without knowing.
    async fn explained(&self, outcomes: &[(u32, WriteMode, Outcome)]) -> Result<(), Broken> {
        if let Some((job, _, unknown)) = outcomes.iter().find(|(_, _, end)| matches!(end, Outcome::Unknown(_))) {
            return Err(format!("write {job} ended {unknown:?}"));
        }
        self.tidied().await?;
        let rows = self.rows().await?;
        let committed: Vec<(u32, WriteMode)> = outcomes
            .iter()
            .filter(|(_, _, end)| *end == Outcome::Committed)
            .map(|(job, mode, _)| (*job, *mode))
            .collect();
        if permutations(&committed).iter().any(|order| self.after(order).as_ref() == Some(&rows)) {
            return Ok(());
        }
        Err(format!("no order of {outcomes:?} gives {rows:?}"))
    }
}

fn permutations<T: Copy>(items: &[T]) -> Vec<Vec<T>> {
    if items.is_empty() {
        return vec![Vec::new()];
    }
    (0..items.len())
        .flat_map(|first| {
            let mut rest = items.to_vec();
            let head = rest.remove(first);
            permutations(&rest).into_iter().map(move |mut tail| {
                tail.insert(0, head);
                tail
            })
        })
        .collect()
}

/// What a process does until it ends, or is killed once a request is held.
async fn until_killed<T>(chaos: &ChaosStore, process: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        ended = process => Some(ended),
        () = chaos.held() => None,
    }
}

fn at(what: &str, n: u64, broken: Broken) -> Broken {
    format!("{what} {n}: {broken}")
}

/// The driver dies after request n, for all n; then the next process tidies up. Gives how many n there are.
async fn driver_dies(place: Place, mode: WriteMode, left_out: Option<Step>) -> Result<u64, Broken> {
    let mut entered = false;
    for n in 0.. {
        let world = World::new(place, mode, left_out).await;
        let (chaos, store) = world.chaos(Chaos::stop_after(n));
        let ended = until_killed(&chaos, drive(store, 1, mode, world.timing.clone())).await;
        drop(chaos);
        world.tidy().await.map_err(|broken| at("stopped after", n, broken))?;
        let rows = world.rows().await?;
        let after = world.after(&[(1, mode)]).unwrap();
        let mut before = world.before.clone();
        before.sort();
        if rows != after && (rows != before || entered) {
            return Err(at("stopped after", n, format!("neither all nor nothing: {rows:?}")));
        }
        // What was decided once stays decided.
        entered |= rows == after;
        match ended {
            None => {}
            Some(Outcome::Committed) if entered => return Ok(n),
            Some(outcome) => return Err(at("stopped after", n, format!("{outcome:?}"))),
        }
    }
    unreachable!("a write has an end")
}

/// The driver dies after request n, and whoever tidies up after its request m, for all pairs. Gives how many there are.
async fn both_die(place: Place, mode: WriteMode, tidies: WriteMode) -> Result<u64, Broken> {
    let mut pairs = 0;
    for n in 0.. {
        let mut whole = true;
        for m in 0.. {
            let world = World::new(place, mode, None).await;
            let (chaos, store) = world.chaos(Chaos::stop_after(n));
            whole = until_killed(&chaos, drive(store, 1, mode, world.timing.clone())).await.is_some();
            let (chaos, store) = world.chaos(Chaos::stop_after(m));
            // A repair, or another write, which tidies up before it begins.
            let ended = if tidies == WriteMode::Ignore {
                let destination = destination(store);
                until_killed(&chaos, repair(&destination, &world.impatient())).await.is_some()
            } else {
                until_killed(&chaos, drive(store, 2, tidies, world.impatient())).await.is_some()
            };
            pairs += 1;
            let context = |broken| at("stopped after", n, at("and", m, broken));
            world.tidy().await.map_err(context)?;
            let rows = world.rows().await?;
            let orders: [&[(u32, WriteMode)]; 4] = [&[], &[(1, mode)], &[(2, tidies)], &[(1, mode), (2, tidies)]];
            if !orders.iter().any(|order| world.after(order).as_ref() == Some(&rows)) {
                return Err(context(format!("neither all nor nothing: {rows:?}")));
            }
            if ended {
                break;
            }
        }
        if whole {
            break;
        }
    }
    Ok(pairs)
}

/// Request n goes wrong once, for all n: the write is committed all the same.
async fn one_fault(place: Place, mode: WriteMode, fault: Fault, left_out: Option<Step>) -> Result<u64, Broken> {
    for n in 1.. {
        let world = World::new(place, mode, left_out).await;
        let rule = Rule { verb: None, key: "*".to_owned(), nth: n, times: Some(1), fault };
        let (chaos, store) = world.chaos(Chaos::new([rule]));
        let outcome = drive(store, 1, mode, world.timing.clone()).await;
        if chaos.check_spent().is_err() {
            // The write has fewer requests: all were tried.
            return Ok(n - 1);
        }
        let context = |broken| at(&format!("{fault:?} at {:?}", chaos.requests().get(n as usize - 1)), n, broken);
        if outcome != Outcome::Committed {
            return Err(context(format!("{outcome:?}")));
        }
        world.explained(&[(1, mode, outcome)]).await.map_err(context)?;
    }
    unreachable!("a write has an end")
}

/// Another process that comes in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Other {
    /// A writer that knows that the first is alive.
    Writer(WriteMode),
    /// A repair that holds the first for dead.
    Repair,
    /// Such a repair, then a writer.
    RepairThenWriter(WriteMode),
}

/// The driver sleeps after request n while another process runs from its start to its end; then the driver goes on. For
/// all n. Gives how many there are, and how often the driver's write was not committed.
async fn driver_sleeps(
    place: Place,
    mode: WriteMode,
    other: Other,
    left_out: Option<Step>,
) -> Result<(u64, u64), Broken> {
    let mut refused = 0;
    for n in 0.. {
        let world = World::new(place, mode, left_out).await;
        let (chaos, store) = world.chaos(Chaos::stop_after(n));
        let mut first = std::pin::pin!(drive(store, 1, mode, world.timing.clone()));
        let early = until_killed(&chaos, &mut first).await;
        let slept = early.is_none();
        let context = |broken| at(&format!("{mode:?} against {other:?}, slept after"), n, broken);
        let mut outcomes = Vec::new();
        if matches!(other, Other::Repair | Other::RepairThenWriter(_)) {
            let repaired = repair(&destination(Arc::clone(&world.store)), &world.impatient()).await;
            repaired.map_err(|error| context(error.into_failure().to_string()))?;
        }
        if let Other::Writer(theirs) | Other::RepairThenWriter(theirs) = other {
            let outcome = drive(Arc::clone(&world.store), 2, theirs, world.timing.clone()).await;
            outcomes.push((2, theirs, outcome));
        }
        chaos.thaw();
        let first = match early {
            Some(outcome) => outcome,
            None => first.await,
        };
        refused += u64::from(first != Outcome::Committed);
        outcomes.push((1, mode, first));
        world.explained(&outcomes).await.map_err(context)?;
        world.announced().await.map_err(context)?;
        if !slept {
            return Ok((n, refused));
        }
    }
    unreachable!("a write has an end")
}

#[tokio::test(start_paused = true)]
async fn a_driver_may_die_after_any_request() {
    for place in [Place::Memory, Place::LocalFiles] {
        for mode in MODES {
            let points = driver_dies(place, mode, None).await.unwrap();
            assert!(points > 15, "{mode:?}: {points} points");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_tidies_up_may_die_after_any_request_too() {
    let mut pairs = 0;
    for mode in MODES {
        pairs += both_die(Place::Memory, mode, WriteMode::Ignore).await.unwrap();
        pairs += both_die(Place::Memory, mode, WriteMode::Append).await.unwrap();
        pairs += both_die(Place::Memory, mode, WriteMode::Overwrite).await.unwrap();
    }
    pairs += both_die(Place::LocalFiles, WriteMode::Overwrite, WriteMode::Ignore).await.unwrap();
    assert!(pairs > 2_000, "{pairs} pairs");
}

#[tokio::test(start_paused = true)]
async fn any_request_may_go_wrong() {
    for mode in MODES {
        for fault in [
            Fault::LostReply,
            Fault::Status(503),
            Fault::Status(409),
            Fault::FalseAlreadyExists,
            Fault::AppliedAlreadyExists,
            Fault::Hang,
        ] {
            let points = one_fault(Place::Memory, mode, fault, None).await.unwrap();
            assert!(points > 15, "{mode:?} {fault:?}: {points} points");
        }
        one_fault(Place::LocalFiles, mode, Fault::LostReply, None).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn another_writer_may_come_in_between() {
    for mode in MODES {
        for theirs in MODES {
            driver_sleeps(Place::Memory, mode, Other::Writer(theirs), None).await.unwrap();
        }
    }
    let (_, refused) =
        driver_sleeps(Place::LocalFiles, WriteMode::Overwrite, Other::Writer(WriteMode::Overwrite), None)
            .await
            .unwrap();
    assert!(refused > 0, "of two overwrites that met, one is refused");
}

#[tokio::test(start_paused = true)]
async fn a_driver_held_for_dead_may_come_back() {
    for place in [Place::Memory, Place::LocalFiles] {
        for mode in MODES {
            let (_, refused) = driver_sleeps(place, mode, Other::Repair, None).await.unwrap();
            assert!(refused > 0, "{mode:?}: a write that was given up stays so");
        }
    }
    for mode in MODES {
        for theirs in [WriteMode::Append, WriteMode::Overwrite] {
            driver_sleeps(Place::Memory, mode, Other::RepairThenWriter(theirs), None).await.unwrap();
        }
    }
}

/// Three writers at once, over a store that is slow, loses replies and answers 503.
#[tokio::test(start_paused = true)]
async fn writers_at_once_are_one_after_the_other() {
    let latency = Latency { p50: Duration::from_millis(20), p99: Duration::from_millis(400), ..Latency::none() };
    let faults = vec![
        (Fault::LostReply, 0.03),
        (Fault::Status(503), 0.03),
        (Fault::FalseAlreadyExists, 0.1),
        (Fault::AppliedAlreadyExists, 0.1),
    ];
    let mut fired = 0;
    for seed in 0..60 {
        let sim = SimStore::faulty(seed, latency.clone(), faults.clone());
        let memory: Arc<dyn ObjectStore> = sim.memory();
        let mode = |writer: u64| MODES[((seed >> (2 * writer)) % 4) as usize];
        let world = World::over(memory, None, mode(0), None).await;
        let writers = (0..3).map(|writer| {
            let (store, timing) = (Arc::new(sim.clone()), world.timing.clone());
            async move {
                let job = writer as u32 + 1;
                (job, mode(writer), drive(store, job, mode(writer), timing).await)
            }
        });
        let outcomes = future::join_all(writers).await;
        world.explained(&outcomes).await.map_err(|broken| at("seed", seed, broken)).unwrap();
        fired += sim.fired().values().sum::<u64>();
    }
    assert!(fired > 200, "{fired} faults");
}

#[tokio::test(start_paused = true)]
async fn every_step_is_needed() {
    let read_back =
        one_fault(Place::Memory, WriteMode::ErrorIfExists, Fault::AppliedAlreadyExists, Some(Step::ReadBack));
    assert!(read_back.await.is_err(), "without reading an entry back");
    let tombstone = driver_sleeps(Place::Memory, WriteMode::Append, Other::Repair, Some(Step::Tombstone));
    assert!(tombstone.await.is_err(), "without tombstones");
    assert!(driver_dies(Place::Memory, WriteMode::Append, Some(Step::RollForward)).await.is_err(), "without repairs");
    let overwrite = Other::Writer(WriteMode::Overwrite);
    let settle = driver_sleeps(Place::Memory, WriteMode::Append, overwrite, Some(Step::Settle));
    assert!(settle.await.is_err(), "without waiting for others before an overwrite");
    let look = driver_sleeps(Place::Memory, WriteMode::Append, overwrite, Some(Step::LookForDone));
    assert!(look.await.is_err(), "without looking whether somebody else was faster");
}

#[tokio::test(start_paused = true)]
async fn readers_wait_for_an_unfinished_write_and_then_say_whose_it_is() {
    let world = World::new(Place::Memory, WriteMode::Append, None).await;
    let rule = Rule::new(Verb::Copy, "*", Fault::Hang).always();
    let (chaos, store) = world.chaos(Chaos::new([rule]));
    let mut driver = std::pin::pin!(drive(store, 1, WriteMode::Append, world.timing.clone()));
    let stuck = tokio::time::timeout(Duration::from_secs(5), &mut driver).await;
    assert!(stuck.is_err(), "the driver hangs in its copies");
    let began = Instant::now();
    let read = read_committed(&destination(Arc::clone(&world.store)), &world.timing).await;
    assert!(matches!(read, Err(Error::UnfinishedWrite { write, .. }) if write == id(1)), "{read:?}");
    assert!(began.elapsed() >= world.timing.unfinished_wait);
    chaos.check_spent().unwrap();
    repair(&destination(Arc::clone(&world.store)), &world.timing).await.unwrap();
    assert_eq!(world.rows().await.unwrap(), world.after(&[(1, WriteMode::Append)]).unwrap());
}

/// What a reader sees, who lists the files as sources do.
async fn read_committed(destination: &Destination, timing: &Timing) -> Result<Vec<ObjectMeta>, Error> {
    let mut before = settled(destination, timing).await?;
    loop {
        let there = Files { destination, timing }.visible().await?;
        let after = settled(destination, timing).await?;
        if after == before {
            return Ok(there.into_iter().map(|(_, meta)| meta).collect());
        }
        before = after;
    }
}

fn target(write: WriteId, mode: WriteMode) -> WriteTarget {
    WriteTarget { destination: "memory:///data/out".to_owned(), mode, write }
}

async fn start(store: &Arc<dyn ObjectStore>, write: WriteId, mode: WriteMode) -> Result<Started, Error> {
    let application = (Arc::clone(store), Path::from("app"));
    Commit::start(destination(Arc::clone(store)), application, &target(write, mode), Timing::default()).await
}

#[tokio::test(start_paused = true)]
async fn a_store_without_put_if_absent_is_refused() {
    let rule = Rule::new(Verb::Create, "*", Fault::CreateOverwrites).always();
    let chaos = ChaosStore::new(Arc::new(InMemory::new()), Chaos::new([rule]));
    let store: Arc<dyn ObjectStore> = Arc::new(chaos.clone());
    let started = start(&store, id(1), WriteMode::Append).await;
    assert!(matches!(started, Err(Error::NoPutIfAbsent { .. })), "{started:?}");
    chaos.check_spent().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_is_named_at_once() {
    for status in [401, 403, 404] {
        let rule = Rule::new(Verb::Create, "*", Fault::Status(status)).always();
        let chaos = ChaosStore::new(Arc::new(InMemory::new()), Chaos::new([rule]));
        let store: Arc<dyn ObjectStore> = Arc::new(chaos);
        let began = Instant::now();
        let failure = start(&store, id(1), WriteMode::Append).await.unwrap_err().into_failure();
        assert_eq!(failure.kind, model::FailureKind::StoreDenied, "{failure}");
        assert!(began.elapsed() < Duration::from_secs(10));
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stays_away_fails_the_write_within_its_bound_and_leaves_nothing_that_counts() {
    let world = World::new(Place::Memory, WriteMode::Append, None).await;
    let rule = Rule::new(Verb::Create, "*/_vonk/log/*", Fault::Status(503)).always();
    let (chaos, store) = world.chaos(Chaos::new([rule]));
    let began = Instant::now();
    let outcome = drive(store, 1, WriteMode::Append, world.timing.clone()).await;
    // Once for the entry, once for its tombstone.
    assert!(began.elapsed() < 3 * world.timing.retry_for, "{:?}", began.elapsed());
    assert!(matches!(outcome, Outcome::Unknown(_)), "{outcome:?}");
    chaos.check_spent().unwrap();
    world.explained(&[]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn old_entries_go_and_the_newest_stays() {
    let store: Arc<dyn ObjectStore> = Arc::new(SimStore::quiet());
    let log = async || {
        let destination = destination(Arc::clone(&store));
        let files = Files { destination: &destination, timing: &Timing::default() };
        files.log().await.unwrap().entries().collect::<Vec<_>>()
    };
    for (job, want) in [(1, vec![1]), (2, vec![2]), (3, vec![3])] {
        let outcome = drive(Arc::clone(&store), job, WriteMode::Append, Timing::default()).await;
        assert_eq!(outcome, Outcome::Committed);
        assert_eq!(log().await, want);
        tokio::time::advance(Timing::default().keep_entries).await;
    }
    drive(Arc::clone(&store), 4, WriteMode::Overwrite, Timing::default()).await;
    tokio::time::advance(Duration::from_secs(60)).await;
    drive(Arc::clone(&store), 5, WriteMode::Append, Timing::default()).await;
    assert_eq!(log().await, [4, 5], "a young one stays");
}

#[tokio::test(start_paused = true)]
async fn a_write_of_last_week_may_not_commit() {
    let store: Arc<dyn ObjectStore> = Arc::new(SimStore::quiet());
    let Started::Writing(commit) = start(&store, id(1), WriteMode::Append).await.unwrap() else { panic!("ignored") };
    tokio::time::advance(Timing::default().oldest_write + Duration::from_secs(1)).await;
    let entered = commit.enter(Vec::new()).await;
    assert!(matches!(entered, Err(Error::WriteTooOld { days: 3, .. })), "{entered:?}");
    assert_eq!(commit.abort().await.unwrap(), Abandoned::Undone);
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_while_its_future_is_polled() {
    let store: Arc<dyn ObjectStore> = Arc::new(SimStore::quiet());
    let Started::Writing(commit) = start(&store, id(1), WriteMode::Append).await.unwrap() else { panic!("ignored") };
    let repaired = async || repair(&destination(Arc::clone(&store)), &Timing::default()).await.unwrap();
    let _ = tokio::time::timeout(Duration::from_secs(2 * 60 * 60), commit.renew()).await;
    assert_eq!(repaired().await, Repaired { running: vec![id(1)], ..Repaired::default() });
    tokio::time::advance(Timing::default().lease_expires).await;
    assert_eq!(repaired().await, Repaired { aborted: vec![id(1)], ..Repaired::default() });
    let refused = commit.publish(Vec::new()).await;
    assert!(matches!(refused, Err(Error::WriteAborted { .. })), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_later_epoch_does_not_append_again() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    assert_eq!(drive(Arc::clone(&store), 1, WriteMode::Append, Timing::default()).await, Outcome::Committed);
    let again = WriteId { epoch: Epoch(2), ..id(1) };
    let refused = start(&store, again, WriteMode::Append).await;
    assert!(matches!(refused, Err(Error::RepeatedAppend { earlier, .. }) if earlier == id(1)), "{refused:?}");
    let other = WriteId { app: AppId(2), ..again };
    assert!(start(&store, other, WriteMode::Append).await.is_ok(), "another application may");
    assert!(start(&store, again, WriteMode::Overwrite).await.is_ok(), "an overwrite may");
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_application_noted_is_settled() {
    let store: Arc<dyn ObjectStore> = Arc::new(SimStore::quiet());
    let lease = shuffle::sweep::Lease::claim(Arc::clone(&store), &Path::from("app"), AppId(1), Epoch(1)).await.unwrap();
    drop(lease);
    let Started::Writing(_) = start(&store, id(1), WriteMode::Append).await.unwrap() else { panic!("ignored") };
    tokio::time::advance(shuffle::sweep::SWEEP_AFTER).await;
    let open = |_: &str| Ok(destination(Arc::clone(&store)));
    let hook = SettleNotes { open, timing: Timing::default() };
    let swept =
        shuffle::sweep::sweep(store.as_ref(), &Path::from("app"), shuffle::sweep::SWEEP_AFTER, &hook).await.unwrap();
    assert_eq!(swept.leases, [(AppId(1), Epoch(1))]);
    let destination = destination(Arc::clone(&store));
    let files = Files { destination: &destination, timing: &Timing::default() };
    let left: Vec<String> = files.list("").await.unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(left, [write::log_done(1), write::log_entry(1)], "a tombstone");
    assert!(store.list(Some(&Path::from("app"))).try_collect::<Vec<_>>().await.unwrap().is_empty());
}

//! What would S3 have made of these requests: when would it have answered, what would it have charged?
//!
//! [`SimStore`] is a seeded simulator over memory. Its time is tokio's, so that with a paused clock an hour of waiting
//! takes no time; objects are stamped by that clock too, from [`BIRTH`] on.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::time::Instant;

use super::intercept::{Decision, Fault, Hooks, Intercepted, Verb, delegate_store};

/// What the store's clock says when it is made: seconds since 1970.
pub const BIRTH: i64 = 1_767_225_600;

/// Requests that change something, per second and prefix, above which S3 answers 503 (S3 user guide, "Best practices
/// design patterns: optimizing performance").
pub const WRITES_PER_SECOND: u32 = 3_500;

/// Requests that read, likewise.
pub const READS_PER_SECOND: u32 = 5_500;

/// When the store answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Latency {
    /// Half of the answers come sooner.
    pub p50: Duration,
    /// All but 1 % come sooner: latencies are lognormal.
    pub p99: Duration,
    /// The share of answers that take much longer.
    pub tail: f64,
    /// How long those take.
    pub tail_range: (Duration, Duration),
    /// The rate of one body, in bytes a second; 0 is without limit.
    pub bytes_per_second: u64,
}

impl Latency {
    /// As measured of S3 from inside its region.
    #[must_use]
    pub fn s3() -> Self {
        Self {
            p50: Duration::from_millis(30),
            p99: Duration::from_millis(200),
            tail: 0.0016,
            tail_range: (Duration::from_secs(10), Duration::from_secs(15)),
            bytes_per_second: 80_000_000,
        }
    }

    /// Everything at once.
    #[must_use]
    pub fn none() -> Self {
        Self {
            p50: Duration::ZERO,
            p99: Duration::ZERO,
            tail: 0.0,
            tail_range: (Duration::ZERO, Duration::ZERO),
            bytes_per_second: 0,
        }
    }

    fn sample(&self, rng: &mut ChaCha8Rng) -> Duration {
        // The draws are made in any case: a change of the latency leaves all later faults of a seed where they were.
        let (tail, place) = (rng.random::<f64>(), rng.random::<f64>());
        let (radius, angle) = (rng.random::<f64>(), rng.random::<f64>());
        if tail < self.tail {
            let (from, to) = self.tail_range;
            return from + (to - from).mul_f64(place);
        }
        if self.p50.is_zero() {
            return Duration::ZERO;
        }
        // Box and Muller's normal variate; the 99th percentile of a standard normal is 2.326.
        let normal = (-2.0 * (1.0 - radius).ln()).sqrt() * (std::f64::consts::TAU * angle).cos();
        let sigma = (self.p99.as_secs_f64() / self.p50.as_secs_f64()).ln() / 2.326;
        self.p50.mul_f64((sigma * normal).exp())
    }
}

/// What a store charges, in dollars for a million requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Prices {
    /// Writing, copying, listing, and each step of an upload.
    pub put: f64,
    /// Reading.
    pub get: f64,
}

impl Default for Prices {
    /// S3 Standard in us-east-1. Deleting is free, and so are bytes within the region.
    fn default() -> Self {
        Self { put: 5.0, get: 0.4 }
    }
}

/// Requests and bytes of one verb.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Requests, failed ones too: they are charged.
    pub requests: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
}

/// What was asked of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meter {
    verbs: BTreeMap<Verb, Count>,
}

impl Meter {
    /// Of one verb.
    #[must_use]
    pub fn of(&self, verb: Verb) -> Count {
        self.verbs.get(&verb).copied().unwrap_or_default()
    }

    /// Of all verbs.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.verbs.values().map(|count| count.requests).sum()
    }

    /// What they cost.
    #[must_use]
    pub fn dollars(&self, prices: &Prices) -> f64 {
        let price = |verb: &Verb| match verb {
            Verb::Get | Verb::Head => prices.get,
            Verb::Delete | Verb::MultipartAbort => 0.0,
            Verb::Put
            | Verb::Create
            | Verb::MultipartStart
            | Verb::MultipartPart
            | Verb::MultipartComplete
            | Verb::List
            | Verb::Copy => prices.put,
        };
        self.verbs.iter().map(|(verb, count)| price(verb) * count.requests as f64 / 1e6).sum()
    }

    /// What the open Spark plugin asks for the same shuffle: three objects a map (rows, index, checksums), one GET for
    /// each pair of map and partition, and five small reads of index and checksums for each map and executor.
    #[must_use]
    pub fn spark_plugin(maps: u64, partitions: u64, executors: u64) -> Self {
        let count = |requests| Count { requests, bytes: 0 };
        let gets = maps * partitions + 5 * maps * executors;
        Self { verbs: BTreeMap::from([(Verb::Put, count(3 * maps)), (Verb::Get, count(gets))]) }
    }
}

/// One line per verb, and the price at S3's.
impl fmt::Display for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.verbs.iter().try_for_each(|(verb, count)| {
            writeln!(f, "{verb:?}: {} requests, {} bytes", count.requests, count.bytes)
        })?;
        write!(f, "${:.6}", self.dollars(&Prices::default()))
    }
}

/// A simulated S3.
#[derive(Debug, Clone)]
pub struct SimStore {
    store: Intercepted<Simulator>,
    memory: Arc<InMemory>,
}

impl SimStore {
    /// A store without latency, faults or throttling, whose clock is tokio's.
    #[must_use]
    pub fn quiet() -> Self {
        Self::build(0, Latency::none(), Vec::new(), false)
    }

    /// A store that answers as S3 does.
    #[must_use]
    pub fn s3(seed: u64) -> Self {
        Self::build(seed, Latency::s3(), Vec::new(), true)
    }

    /// A store in which each request meets each of these faults with that probability.
    #[must_use]
    pub fn faulty(seed: u64, latency: Latency, faults: Vec<(Fault, f64)>) -> Self {
        Self::build(seed, latency, faults, true)
    }

    fn build(seed: u64, latency: Latency, faults: Vec<(Fault, f64)>, throttles: bool) -> Self {
        let memory = Arc::new(InMemory::new());
        let state = State {
            rng: ChaCha8Rng::seed_from_u64(seed),
            meter: Meter::default(),
            fired: BTreeMap::new(),
            stamps: HashMap::new(),
            rates: HashMap::new(),
        };
        let simulator = Simulator { latency, faults, throttles, began: Instant::now(), state: Mutex::new(state) };
        Self { store: Intercepted::new(Arc::clone(&memory) as Arc<dyn ObjectStore>, simulator), memory }
    }

    /// What was asked so far.
    #[must_use]
    pub fn meter(&self) -> Meter {
        self.store.hooks().state().meter.clone()
    }

    /// How often each fault happened, by its `Debug` text; `throttled` is a 503 of the store's own.
    #[must_use]
    pub fn fired(&self) -> BTreeMap<String, u64> {
        self.store.hooks().state().fired.clone()
    }

    /// What lies behind the simulation: reads and writes there are free, at once, and always succeed.
    #[must_use]
    pub fn memory(&self) -> Arc<InMemory> {
        Arc::clone(&self.memory)
    }
}

delegate_store!(SimStore, store);

#[derive(Debug)]
struct State {
    rng: ChaCha8Rng,
    meter: Meter,
    fired: BTreeMap<String, u64>,
    stamps: HashMap<Path, DateTime<Utc>>,
    /// Per prefix: the second, its reads and its writes.
    rates: HashMap<String, (u64, u32, u32)>,
}

#[derive(Debug)]
struct Simulator {
    latency: Latency,
    faults: Vec<(Fault, f64)>,
    throttles: bool,
    began: Instant,
    state: Mutex<State>,
}

impl fmt::Display for Simulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sim")
    }
}

impl Simulator {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp(BIRTH, 0).unwrap_or_default() + self.began.elapsed()
    }
}

/// The part of a key for which S3 counts requests: it ends with the first segment of two hexadecimal digits, as shuffle
/// objects have it, else with the first segment.
fn throttled_prefix(key: &Path) -> String {
    let is_hash = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let parts: Vec<_> = key.parts().collect();
    let depth = parts.iter().position(|part| is_hash(part.as_ref())).unwrap_or(0);
    parts.iter().take(depth + 1).map(AsRef::as_ref).collect::<Vec<&str>>().join("/")
}

impl Hooks for Simulator {
    fn decide(&self, verb: Verb, key: &Path, bytes: u64) -> Decision {
        let second = self.began.elapsed().as_secs();
        let mut state = self.state();
        let state = &mut *state;
        let count = state.meter.verbs.entry(verb).or_default();
        count.requests += 1;
        count.bytes += bytes;
        let delay = self.latency.sample(&mut state.rng);
        let rate = state.rates.entry(throttled_prefix(key)).or_default();
        if rate.0 != second {
            *rate = (second, 0, 0);
        }
        let over = if matches!(verb, Verb::Get | Verb::Head) {
            rate.1 += 1;
            rate.1 > READS_PER_SECOND
        } else {
            rate.2 += 1;
            rate.2 > WRITES_PER_SECOND
        };
        // Every fault draws, so that one fault's probability does not move another's place.
        let drawn: Vec<bool> = self.faults.iter().map(|(_, share)| state.rng.random::<f64>() < *share).collect();
        let fault = self.faults.iter().zip(drawn).find(|((fault, _), drawn)| *drawn && applies(*fault, verb));
        let (name, fault) = match fault {
            _ if over && self.throttles => ("throttled".to_owned(), Fault::Status(503)),
            Some(((fault, _), _)) => (format!("{fault:?}"), *fault),
            None => return Decision { delay, ..Decision::default() },
        };
        *state.fired.entry(name).or_default() += 1;
        Decision { delay, fault: Some(fault), ..Decision::default() }
    }

    fn changed(&self, key: &Path) {
        let now = self.now();
        self.state().stamps.insert(key.clone(), now);
    }

    fn stamp(&self, meta: ObjectMeta) -> ObjectMeta {
        let stamped = self.state().stamps.get(&meta.location).copied();
        ObjectMeta { last_modified: stamped.unwrap_or(meta.last_modified), ..meta }
    }

    fn read(&self, bytes: u64) {
        self.state().meter.verbs.entry(Verb::Get).or_default().bytes += bytes;
    }

    fn transfer(&self, bytes: u64) -> Duration {
        match self.latency.bytes_per_second {
            0 => Duration::ZERO,
            rate => Duration::from_secs_f64(bytes as f64 / rate as f64),
        }
    }
}

/// Whether a fault can happen to a request of this verb.
fn applies(fault: Fault, verb: Verb) -> bool {
    match fault {
        Fault::ShortBody | Fault::WrongObject => verb == Verb::Get,
        Fault::FlipBit => matches!(verb, Verb::Get | Verb::Put | Verb::Create | Verb::MultipartPart),
        Fault::Missing => matches!(verb, Verb::Get | Verb::Head),
        Fault::FalseAlreadyExists | Fault::AppliedAlreadyExists | Fault::CreateOverwrites => verb == Verb::Create,
        Fault::Status(_)
        | Fault::DelayMs(_)
        | Fault::BytesPerSecond(_)
        | Fault::LostReply
        | Fault::Hang
        | Fault::Abort => true,
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn latency_has_the_percentiles_it_says_and_a_seed_repeats_itself() {
        let run = |seed| async move {
            let store = SimStore::s3(seed);
            let mut took = Vec::new();
            for i in 0..2_000 {
                let began = Instant::now();
                store.put(&Path::from(format!("{i}")), "x".into()).await.unwrap();
                took.push(began.elapsed());
            }
            took
        };
        let (mut first, again, other) = (run(1).await, run(1).await, run(2).await);
        assert_eq!(first, again);
        assert_ne!(first, other);
        first.sort();
        assert!((25..36).contains(&first[1_000].as_millis()), "p50 {:?}", first[1_000]);
        assert!((150..300).contains(&first[1_976].as_millis()), "p99 {:?}", first[1_976]);
        assert!(first[1_999] > Duration::from_secs(5), "a tail: {:?}", first[1_999]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_meter_counts_and_prices() {
        let store = SimStore::s3(1);
        let key = Path::from("a");
        store.put(&key, vec![0; 80_000_000].into()).await.unwrap();
        let began = Instant::now();
        store.get_range(&key, 0..40_000_000).await.unwrap();
        assert!(began.elapsed() >= Duration::from_millis(500), "half a second of bytes");
        store.delete(&key).await.unwrap();
        let meter = store.meter();
        assert_eq!(meter.of(Verb::Put), Count { requests: 1, bytes: 80_000_000 });
        assert_eq!(meter.of(Verb::Get), Count { requests: 1, bytes: 40_000_000 });
        assert_eq!(meter.requests(), 3);
        assert!((meter.dollars(&Prices::default()) - 5.4e-6).abs() < 1e-12, "{meter}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_plugin_is_priced_as_the_design_says() {
        let plugin = Meter::spark_plugin(800, 800, 20);
        assert_eq!(plugin.of(Verb::Get).requests, 720_000);
        assert!((plugin.dollars(&Prices::default()) - 0.30).abs() < 0.01);
        assert!((Meter::spark_plugin(8_192, 1_024, 50).of(Verb::Get).requests as f64 / 10.4e6 - 1.0).abs() < 0.01);
        assert!((Meter::spark_plugin(8_192, 8_192, 100).of(Verb::Get).requests as f64 / 71e6 - 1.0).abs() < 0.01);
    }

    #[tokio::test(start_paused = true)]
    async fn a_prefix_is_throttled_and_the_next_one_is_not() {
        let store = SimStore::faulty(1, Latency::none(), Vec::new());
        let (hot, cold) = (Path::from("shuffle/v1/0a/x"), Path::from("shuffle/v1/0b/x"));
        store.put(&hot, "x".into()).await.unwrap();
        store.put(&cold, "x".into()).await.unwrap();
        for _ in 0..READS_PER_SECOND {
            store.get(&hot).await.unwrap();
        }
        assert!(store.get(&hot).await.is_err());
        store.get(&cold).await.unwrap();
        assert_eq!(store.fired(), BTreeMap::from([("throttled".to_owned(), 1)]));
        tokio::time::advance(Duration::from_secs(1)).await;
        store.get(&hot).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn objects_are_as_old_as_the_virtual_clock_says() {
        let store = SimStore::quiet();
        store.put(&Path::from("a"), "x".into()).await.unwrap();
        tokio::time::advance(Duration::from_secs(3_600)).await;
        store.put(&Path::from("b"), "x".into()).await.unwrap();
        let [a, b] = [store.head(&Path::from("a")).await.unwrap(), store.head(&Path::from("b")).await.unwrap()];
        assert_eq!((b.last_modified - a.last_modified).num_seconds(), 3_600);
    }

    #[tokio::test(start_paused = true)]
    async fn faults_come_at_their_rate() {
        let store = SimStore::faulty(7, Latency::none(), vec![(Fault::LostReply, 0.1)]);
        let mut failed = 0;
        for i in 0..1_000 {
            failed += u32::from(store.put(&Path::from(format!("{i}")), "x".into()).await.is_err());
        }
        assert!((70..130).contains(&failed), "{failed}");
        assert_eq!(store.fired().values().sum::<u64>(), u64::from(failed));
    }
}

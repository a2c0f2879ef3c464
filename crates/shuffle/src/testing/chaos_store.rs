//! How does a test make one certain request go wrong, and know that it did?
//!
//! [`ChaosStore`] wraps any store. A [`Rule`] names a verb, a key and the call from which on it acts; [`Chaos`] is a set
//! of rules that travels to another process as JSON. A budget in a folder is shared by all processes that name it: each
//! firing takes one token, and [`ChaosStore::check_spent`] fails while tokens are left.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path as FilePath, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::ObjectStore;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::intercept::{Decision, Fault, Hooks, Intercepted, Verb, delegate_store};

/// How many requests are remembered for [`ChaosStore::requests`]: enough for any walk, and no leak in a long run.
const LOG_LIMIT: usize = 100_000;

/// One thing that goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Which requests; `None` is all.
    #[serde(default)]
    pub verb: Option<Verb>,
    /// Of which keys: `*` stands for any text. For a copy it is the target's key.
    #[serde(default = "any")]
    pub key: String,
    /// From which matching request on, counted from 1 in each process.
    #[serde(default = "one")]
    pub nth: u64,
    /// How many times, over all processes that share a budget; `None` is always.
    #[serde(default = "once")]
    pub times: Option<u64>,
    /// What goes wrong.
    pub fault: Fault,
}

fn any() -> String {
    "*".to_owned()
}

fn one() -> u64 {
    1
}

fn once() -> Option<u64> {
    Some(1)
}

impl Rule {
    /// The first request of this verb whose key matches goes wrong, once.
    #[must_use]
    pub fn new(verb: Verb, key: impl Into<String>, fault: Fault) -> Self {
        Self { verb: Some(verb), key: key.into(), nth: 1, times: Some(1), fault }
    }

    /// Not the first, but this one.
    #[must_use]
    pub fn nth(self, nth: u64) -> Self {
        Self { nth, ..self }
    }

    /// So many in a row.
    #[must_use]
    pub fn times(self, times: u64) -> Self {
        Self { times: Some(times), ..self }
    }

    /// From there on all of them.
    #[must_use]
    pub fn always(self) -> Self {
        Self { times: None, ..self }
    }
}

/// What goes wrong in a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chaos {
    /// Rules; of those that match a request, the first that has something left acts.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// All requests after this one are held for ever, as if the process had died: see [`ChaosStore::held`].
    #[serde(default)]
    pub stop_after: Option<u64>,
    /// A folder of tokens, made by [`Chaos::with_budget_in`]; without it each store has a budget of its own.
    #[serde(default)]
    pub budget: Option<PathBuf>,
}

impl Chaos {
    /// These rules, with a budget of the store's own.
    #[must_use]
    pub fn new(rules: impl IntoIterator<Item = Rule>) -> Self {
        Self { rules: rules.into_iter().collect(), ..Self::default() }
    }

    /// Nothing goes wrong until all stops.
    #[must_use]
    pub fn stop_after(requests: u64) -> Self {
        Self { stop_after: Some(requests), ..Self::default() }
    }

    /// Puts the budget into a folder, so that several processes share it.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn with_budget_in(self, folder: &FilePath) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        for (rule, times) in self.rules.iter().enumerate().filter_map(|(i, rule)| Some((i, rule.times?))) {
            for token in 0..times {
                fs::write(folder.join(format!("rule-{rule}.{token}")), b"")?;
            }
        }
        Ok(Self { budget: Some(folder.to_owned()), ..self })
    }

    /// As a setting's text.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("only numbers, texts and lists")
    }

    /// From a setting's text.
    ///
    /// # Errors
    /// The text is not what [`Chaos::to_json`] gives.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The rules that did not fire as often as they say, over all processes that share the budget in a folder.
    ///
    /// # Errors
    /// One did not, or there is no folder.
    pub fn check_spent(&self) -> Result<(), Unspent> {
        let Some(folder) = &self.budget else { return Err(Unspent(vec!["no folder of tokens".to_owned()])) };
        let left = self.rules.iter().enumerate().filter(|(i, rule)| match rule.times {
            Some(times) => (0..times).any(|token| folder.join(format!("rule-{i}.{token}")).exists()),
            None => !folder.join(format!("rule-{i}.fired")).exists(),
        });
        Unspent::unless_empty(left.map(|(_, rule)| format!("{rule:?}")).collect())
    }
}

/// Faults that were to happen and did not: the test showed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("faults that never fired: {}", .0.join("; "))]
pub struct Unspent(pub Vec<String>);

impl Unspent {
    fn unless_empty(left: Vec<String>) -> Result<(), Self> {
        if left.is_empty() { Ok(()) } else { Err(Self(left)) }
    }
}

/// A store in which chosen requests go wrong.
#[derive(Debug, Clone)]
pub struct ChaosStore {
    store: Intercepted<Chooser>,
}

impl ChaosStore {
    /// Puts chaos in front of a store.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>, chaos: Chaos) -> Self {
        let chooser = Chooser {
            counters: chaos.rules.iter().map(|_| Counter::default()).collect(),
            chaos,
            sent: AtomicU64::new(0),
            log: Mutex::default(),
            gate: watch::channel(Gate::default()).0,
        };
        Self { store: Intercepted::new(inner, chooser) }
    }

    /// How many requests were made, held ones included.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.store.hooks().sent.load(Ordering::SeqCst)
    }

    /// The requests made, in order.
    #[must_use]
    pub fn requests(&self) -> Vec<(Verb, String)> {
        self.store.hooks().log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often each rule fired in this store.
    #[must_use]
    pub fn fired(&self) -> Vec<u64> {
        self.store.hooks().counters.iter().map(|counter| counter.fired.load(Ordering::SeqCst)).collect()
    }

    /// Every rule fired as often as it says (at least once, if always): over all processes that share a folder of
    /// tokens, else in this store.
    ///
    /// # Errors
    /// One did not.
    pub fn check_spent(&self) -> Result<(), Unspent> {
        let chaos = &self.store.hooks().chaos;
        if chaos.budget.is_some() {
            return chaos.check_spent();
        }
        let left = chaos.rules.iter().zip(self.fired()).filter(|(rule, fired)| *fired < rule.times.unwrap_or(1));
        Unspent::unless_empty(left.map(|(rule, _)| format!("{rule:?}")).collect())
    }

    /// Ends once a request is held behind `stop_after`: the moment at which a test drops its caller, as death would.
    pub async fn held(&self) {
        let mut gate = self.store.hooks().gate.subscribe();
        // The sender lives in `self`.
        let _ = gate.wait_for(|gate| gate.held > 0).await;
    }

    /// Lets held requests go on, and all others: the caller was not dead, but slow.
    pub fn thaw(&self) {
        self.store.hooks().gate.send_modify(|gate| gate.open = true);
    }
}

delegate_store!(ChaosStore, store);

#[derive(Debug, Clone, Copy, Default)]
struct Gate {
    held: u64,
    open: bool,
}

#[derive(Debug, Default)]
struct Counter {
    seen: AtomicU64,
    fired: AtomicU64,
}

#[derive(Debug)]
struct Chooser {
    chaos: Chaos,
    counters: Vec<Counter>,
    sent: AtomicU64,
    log: Mutex<Vec<(Verb, String)>>,
    gate: watch::Sender<Gate>,
}

impl fmt::Display for Chooser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Chaos")
    }
}

impl Chooser {
    /// Takes one firing from the budget.
    fn spend(&self, index: usize, rule: &Rule) -> bool {
        let counter = &self.counters[index];
        let granted = match (&self.chaos.budget, rule.times) {
            (Some(folder), Some(times)) => (0..times).any(|token| {
                let token = folder.join(format!("rule-{index}.{token}"));
                // A rename has one winner among all processes.
                fs::rename(&token, token.with_extension(format!("{}-fired", token_name(&token)))).is_ok()
            }),
            (Some(folder), None) => {
                // Only a mark that it fired: a second one is no error.
                let _ = fs::write(folder.join(format!("rule-{index}.fired")), b"");
                true
            }
            (None, Some(times)) => {
                let take = |fired: u64| (fired < times).then_some(fired + 1);
                return counter.fired.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok();
            }
            (None, None) => true,
        };
        if granted {
            counter.fired.fetch_add(1, Ordering::SeqCst);
        }
        granted
    }
}

fn token_name(token: &FilePath) -> String {
    token.extension().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

impl Hooks for Chooser {
    fn decide(&self, verb: Verb, key: &Path, _bytes: u64) -> Decision {
        let number = self.sent.fetch_add(1, Ordering::SeqCst) + 1;
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.len() < LOG_LIMIT {
            log.push((verb, key.to_string()));
        }
        drop(log);
        let hold = self.chaos.stop_after.is_some_and(|last| number > last) && !self.gate.borrow().open;
        let mut fault = None;
        for (index, rule) in self.chaos.rules.iter().enumerate() {
            if rule.verb.is_some_and(|wanted| wanted != verb) || !matches(&rule.key, key.as_ref()) {
                continue;
            }
            let seen = self.counters[index].seen.fetch_add(1, Ordering::SeqCst) + 1;
            if fault.is_none() && seen >= rule.nth && self.spend(index, rule) {
                fault = Some(rule.fault);
            }
        }
        Decision { hold, fault, ..Decision::default() }
    }

    fn hold(&self) -> BoxFuture<'static, ()> {
        let mut gate = self.gate.subscribe();
        self.gate.send_modify(|gate| gate.held += 1);
        async move {
            if gate.wait_for(|gate| gate.open).await.is_err() {
                // The store is gone, and so is its caller.
                futures::future::pending::<()>().await;
            }
        }
        .boxed()
    }
}

/// Whether a text is what a pattern says, in which `*` is any text.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(text) = text.strip_prefix(head) else { return false };
    (0..=text.len()).filter(|at| text.is_char_boundary(*at)).any(|at| matches(rest, &text[at..]))
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;
    use object_store::{Error, ObjectStoreExt, PutMode};

    use super::*;

    fn over_memory(chaos: Chaos) -> (Arc<dyn ObjectStore>, ChaosStore) {
        let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        (Arc::clone(&memory), ChaosStore::new(memory, chaos))
    }

    #[test]
    fn a_pattern_matches_any_text_at_its_stars() {
        for (pattern, text, want) in [
            ("*", "", true),
            ("a/*/c", "a/b/c", true),
            ("a/*/c", "a/b/d", false),
            ("*.json", "x/1.json", true),
            ("*a*b", "xaayb", true),
            ("abc", "abcd", false),
        ] {
            assert_eq!(matches(pattern, text), want, "{pattern} {text}");
        }
    }

    #[test]
    fn rules_travel_as_json() {
        let chaos = Chaos::new([
            Rule::new(Verb::MultipartPart, "shuffle/*", Fault::Status(503)).nth(2).times(3),
            Rule::new(Verb::Get, "*", Fault::FlipBit).always(),
        ]);
        assert_eq!(Chaos::from_json(&chaos.to_json()).unwrap(), chaos);
        let short = Chaos::from_json(r#"{"rules":[{"verb":"get","fault":"lost-reply"}]}"#).unwrap();
        assert_eq!(short, Chaos::new([Rule::new(Verb::Get, "*", Fault::LostReply)]));
        assert!(Chaos::from_json(r#"{"rulez":[]}"#).is_err());
    }

    #[tokio::test]
    async fn each_fault_does_what_it_says() {
        let key = Path::from("a/1");
        let body = b"0123456789".as_slice();
        let faulty = |verb, fault| over_memory(Chaos::new([Rule::new(verb, "a/*", fault)]));

        let (memory, store) = faulty(Verb::Put, Fault::Status(503));
        assert!(matches!(store.put(&key, body.into()).await, Err(Error::Generic { .. })));
        assert!(matches!(memory.head(&key).await, Err(Error::NotFound { .. })), "not applied");
        store.put(&key, body.into()).await.unwrap();
        store.check_spent().unwrap();

        let (memory, store) = faulty(Verb::Create, Fault::LostReply);
        assert!(store.put_opts(&key, body.into(), PutMode::Create.into()).await.is_err());
        assert_eq!(memory.head(&key).await.unwrap().size, 10, "applied");

        let (memory, store) = faulty(Verb::Create, Fault::FalseAlreadyExists);
        let refused = store.put_opts(&key, body.into(), PutMode::Create.into()).await;
        assert!(matches!(refused, Err(Error::AlreadyExists { .. })));
        assert!(memory.head(&key).await.is_err(), "not applied");

        let (memory, store) = faulty(Verb::Create, Fault::AppliedAlreadyExists);
        let refused = store.put_opts(&key, body.into(), PutMode::Create.into()).await;
        assert!(matches!(refused, Err(Error::AlreadyExists { .. })));
        assert!(memory.head(&key).await.is_ok(), "applied");

        for (fault, want) in [
            (Fault::ShortBody, b"01234".as_slice()),
            (Fault::FlipBit, b"01234%6789"),
            (Fault::WrongObject, b"9876543210"),
        ] {
            let (memory, store) = faulty(Verb::Get, fault);
            memory.put(&key, body.into()).await.unwrap();
            assert_eq!(store.get(&key).await.unwrap().bytes().await.unwrap(), want, "{fault:?}");
            assert_eq!(store.get(&key).await.unwrap().bytes().await.unwrap(), body, "once");
            store.check_spent().unwrap();
        }

        let (memory, store) = faulty(Verb::Put, Fault::FlipBit);
        store.put(&key, body.into()).await.unwrap();
        assert_eq!(memory.get(&key).await.unwrap().bytes().await.unwrap(), b"01234%6789".as_slice(), "damaged at rest");

        let (memory, store) = faulty(Verb::Get, Fault::Missing);
        memory.put(&key, body.into()).await.unwrap();
        assert!(matches!(store.get(&key).await, Err(Error::NotFound { .. })));
        assert_eq!(store.requests(), [(Verb::Get, "a/1".to_owned())]);
    }

    #[tokio::test]
    async fn an_unspent_fault_is_told() {
        let (_, store) = over_memory(Chaos::new([Rule::new(Verb::Get, "*", Fault::Hang)]));
        store.put(&Path::from("a"), "x".into()).await.unwrap();
        assert_eq!(store.check_spent().unwrap_err().0.len(), 1);
    }

    #[tokio::test]
    async fn stores_that_name_one_folder_share_a_budget() {
        let folder = tempfile::tempdir().unwrap();
        let rule = Rule::new(Verb::Put, "*", Fault::Status(500)).times(3);
        let chaos = Chaos::new([rule, Rule::new(Verb::Get, "*", Fault::Missing).always()]);
        let chaos = chaos.with_budget_in(folder.path()).unwrap();
        let stores = [over_memory(chaos.clone()).1, over_memory(chaos.clone()).1];
        let mut refused = 0;
        for _ in 0..4 {
            for store in &stores {
                refused += u32::from(store.put(&Path::from("a"), "x".into()).await.is_err());
            }
        }
        assert_eq!(refused, 3);
        assert_eq!(chaos.check_spent().unwrap_err().0.len(), 1, "no get was made");
        assert!(stores[1].get(&Path::from("a")).await.is_err());
        chaos.check_spent().unwrap();
    }

    #[tokio::test]
    async fn a_stopped_store_holds_requests_until_it_thaws() {
        let (memory, store) = over_memory(Chaos::stop_after(1));
        let key = Path::from("a");
        store.put(&key, "1".into()).await.unwrap();
        let mut late = std::pin::pin!(store.put(&key, "2".into()));
        tokio::select! {
            biased;
            _ = &mut late => panic!("not held"),
            () = store.held() => {}
        }
        assert_eq!(memory.get(&key).await.unwrap().bytes().await.unwrap(), "1");
        store.thaw();
        late.await.unwrap();
        assert_eq!(memory.get(&key).await.unwrap().bytes().await.unwrap(), "2");
    }
}

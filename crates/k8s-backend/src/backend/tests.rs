//! Does the loop do what the pure modules say, whatever the API server does? Time stands still unless all wait.

use std::time::Duration;

use model::failure::LossCause;
use model::setting::Values;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::fake_api::{FakeApi, Fault};
use super::*;
use crate::pod::tests::executor_pods;

/// In paused time, a bound on how much of it passes.
const SOON: Duration = Duration::from_secs(300);

type Events = Pin<Box<dyn Stream<Item = ClusterEvent> + Send>>;

fn backend(api: &FakeApi, settings: &[(&str, &str)]) -> (Arc<PodBackend>, Events) {
    let values: Values = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let pods = executor_pods();
    let config = PodConfig {
        keep: Some(api.keeper()),
        cluster: api.cluster(),
        app: pods.of.app,
        epoch: pods.epoch,
        name: pods.of.name,
        owner: pods.owner,
        program: None,
        attached: String::new(),
        architecture: None,
        store: pods.of.store,
        log: None,
        memory: pods.memory,
        executors: ExecutorSettings::read(&values).unwrap(),
    };
    let backend = PodBackend::new(config, Handle::current());
    let events = backend.events();
    (backend, events)
}

fn name(n: u64) -> String {
    names::executor(executor_pods().of.app, Epoch(1), n)
}

/// A pod that a driver before us has left, with changes.
fn left(n: u64, change: impl FnOnce(&mut Value)) -> Value {
    let mut pod = serde_json::to_value(executor_pods().pod(n, &BTreeSet::new())).unwrap();
    change(&mut pod);
    pod
}

async fn next(events: &mut Events) -> ClusterEvent {
    timeout(SOON, events.next()).await.expect("something happens in time").expect("events go on")
}

/// The next event that is no sentence.
async fn change(events: &mut Events) -> ClusterEvent {
    loop {
        match next(events).await {
            ClusterEvent::Waiting { .. } => {}
            event => return event,
        }
    }
}

async fn waiting(events: &mut Events) -> String {
    match next(events).await {
        ClusterEvent::Waiting { why } => why,
        event => panic!("a sentence, and not {event:?}"),
    }
}

fn reachable(n: u64) -> ClusterEvent {
    ClusterEvent::Reachable { executor: ExecutorId(n), place: "node-a".into() }
}

async fn there(api: &FakeApi, wanted: &[u64]) {
    let wanted: Vec<String> = wanted.iter().map(|n| name(*n)).collect();
    let waiting = async {
        while api.names() != wanted {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if timeout(SOON, waiting).await.is_err() {
        panic!("pods {wanted:?}, and not {:?}", api.names());
    }
}

#[tokio::test(start_paused = true)]
async fn executors_come_run_and_go() {
    let api = FakeApi::default();
    let (backend, mut events) = backend(&api, &[]);
    backend.set_target(2);
    there(&api, &[1, 2]).await;
    api.run(&name(2));
    api.run(&name(1));
    assert_eq!([change(&mut events).await, change(&mut events).await], [reachable(2), reachable(1)]);
    // It drains and ends; nobody wants another.
    backend.set_target(1);
    backend.release(ExecutorId(1));
    api.end(&name(1), 0);
    let ClusterEvent::Lost { executor, cause, why, .. } = change(&mut events).await else { panic!("it is lost") };
    assert_eq!((executor, cause, why.as_str()), (ExecutorId(1), LossCause::Released, "e1 on node-a was let go"));
    there(&api, &[2]).await;
    // A crash is replaced, under a new number.
    api.end(&name(2), 139);
    let ClusterEvent::Lost { executor, cause, .. } = change(&mut events).await else { panic!("it is lost") };
    assert_eq!((executor, cause), (ExecutorId(2), LossCause::Program));
    there(&api, &[3]).await;
    backend.stop().await;
    there(&api, &[]).await;
    assert_eq!(events.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn the_log_of_a_crash_is_read_before_its_pod_is_deleted() {
    let api = FakeApi::default();
    let (backend, mut events) = backend(&api, &[]);
    backend.set_target(1);
    for n in 1..=4 {
        there(&api, &[n]).await;
        api.run(&name(n));
        assert_eq!(change(&mut events).await, reachable(n));
        let (code, printed): (i32, &str) =
            [(139, "one\nlast\n"), (143, "drained\n"), (137, ""), (1, "x")][n as usize - 1];
        if !printed.is_empty() {
            api.print(&name(n), printed);
        }
        if n == 4 {
            api.logs_hang();
        }
        api.end(&name(n), code);
        let ended = Instant::now();
        let ClusterEvent::Lost { executor, last_lines, .. } = change(&mut events).await else { panic!("it is lost") };
        assert_eq!(executor, ExecutorId(n));
        let wanted: &[&str] = match n {
            1 => &["one", "last"],
            // It has kept its log itself.
            2 => &[],
            _ => &["said by the kubelet"],
        };
        assert_eq!(last_lines, wanted, "e{n}");
        assert!(ended.elapsed() <= Duration::from_secs(2), "{:?}", ended.elapsed());
    }
    assert_eq!(
        api.kept(),
        [
            (ExecutorId(1), "one\nlast\n".to_owned()),
            (ExecutorId(3), "said by the kubelet".to_owned()),
            (ExecutorId(4), "said by the kubelet".to_owned())
        ]
    );
    backend.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_goes_while_its_log_is_read_is_lost_at_once() {
    let api = FakeApi::default();
    let (backend, mut events) = backend(&api, &[]);
    backend.set_target(1);
    there(&api, &[1]).await;
    api.run(&name(1));
    assert_eq!(change(&mut events).await, reachable(1));
    api.logs_hang();
    api.end(&name(1), 139);
    api.vanish(&name(1));
    let ended = Instant::now();
    let ClusterEvent::Lost { cause, .. } = change(&mut events).await else { panic!("it is lost") };
    assert_eq!(cause, LossCause::Program);
    assert!(ended.elapsed() < Duration::from_secs(1), "{:?}", ended.elapsed());
    backend.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_creation_whose_answer_was_lost_is_found_again() {
    let api = FakeApi::default();
    api.fail_creations([Fault::AnswerLost]);
    let (backend, mut events) = backend(&api, &[]);
    backend.set_target(1);
    there(&api, &[1]).await;
    api.run(&name(1));
    assert_eq!(change(&mut events).await, reachable(1));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(api.names(), [name(1)], "no second one was made");
}

#[tokio::test(start_paused = true)]
async fn a_strangers_pod_keeps_its_name() {
    let api = FakeApi::default();
    api.put(left(1, |pod| pod["metadata"]["labels"] = json!({ "whose": "a stranger's" })));
    let (backend, _events) = backend(&api, &[]);
    backend.set_target(1);
    there(&api, &[1, 2]).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    backend.set_target(0);
    there(&api, &[1]).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_driver_before_us_left_is_taken_up_or_removed() {
    let api = FakeApi::default();
    api.put(left(7, |_| {}));
    api.put(left(9, |pod| {
        pod["metadata"]["name"] = json!("of-another-epoch");
        pod["metadata"]["labels"]["vonk.dev/epoch"] = json!("0");
    }));
    let (backend, mut events) = backend(&api, &[]);
    backend.set_target(2);
    there(&api, &[7, 8]).await;
    api.run(&name(7));
    assert_eq!(change(&mut events).await, reachable(7));
}

#[tokio::test(start_paused = true)]
async fn an_overloaded_server_is_given_the_time_it_asks_for() {
    let api = FakeApi::default();
    let busy = Fault::Refused { code: 429, reason: "TooManyRequests", message: "later", retry_after: 7 };
    api.fail_creations([busy]);
    let (backend, _events) = backend(&api, &[]);
    let asked = Instant::now();
    backend.set_target(1);
    there(&api, &[1]).await;
    assert!((7..9).contains(&asked.elapsed().as_secs()), "{:?}", asked.elapsed());
    assert_eq!(api.asked("POST"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_away_costs_nothing_and_is_said_to_be() {
    let api = FakeApi::default();
    let (backend, mut events) = backend(&api, &[]);
    backend.set_target(1);
    there(&api, &[1]).await;
    api.run(&name(1));
    assert_eq!(change(&mut events).await, reachable(1));
    api.away(true);
    backend.set_target(2);
    let why = waiting(&mut events).await;
    assert!(why.contains("Kubernetes API unreachable for") && why.ends_with("1 executor go on"), "{why}");
    tokio::time::sleep(Duration::from_secs(60)).await;
    api.away(false);
    there(&api, &[1, 2]).await;
    api.run(&name(2));
    // Nothing was lost, nothing was made twice, and in the end nothing is waited for.
    let mut last = why;
    let event = loop {
        match next(&mut events).await {
            ClusterEvent::Waiting { why } => last = why,
            event => break event,
        }
    };
    assert_eq!((event, last.as_str()), (reachable(2), ""));
    assert_eq!(api.names(), [name(1), name(2)]);
}

#[tokio::test(start_paused = true)]
async fn only_a_whole_list_says_that_a_pod_is_gone() {
    let api = FakeApi::default();
    let (backend, mut events) = backend(&api, &[]);
    backend.set_target(2);
    there(&api, &[1, 2]).await;
    api.run(&name(1));
    api.run(&name(2));
    assert_eq!([change(&mut events).await, change(&mut events).await], [reachable(1), reachable(2)]);
    api.vanish_unseen(&name(1));
    let ClusterEvent::Lost { executor, cause, why, .. } = change(&mut events).await else { panic!("it is lost") };
    assert_eq!((executor, cause), (ExecutorId(1), LossCause::Infrastructure));
    assert!(why.contains("nobody saw why"), "{why}");
    there(&api, &[2, 3]).await;
    assert!(backend.shared.addresses().contains_key(&ExecutorId(2)));
}

#[tokio::test(start_paused = true)]
async fn pods_that_are_deleted_as_soon_as_they_are_made_become_few() {
    let api = FakeApi::default();
    let (backend, _events) = backend(&api, &[]);
    backend.set_target(4);
    let began = Instant::now();
    // As a garbage collector does once their root is gone.
    while began.elapsed() < Duration::from_secs(120) {
        api.names().iter().for_each(|name| api.delete(name));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let made = api.asked("POST");
    assert!((8..=32).contains(&made), "{made} pods in two minutes");
}

#[tokio::test(start_paused = true)]
async fn a_full_quota_is_said_with_how_many_run() {
    let api = FakeApi::default();
    let full =
        Fault::Refused { code: 403, reason: "Forbidden", message: "exceeded quota: q, used: pods=1", retry_after: 0 };
    api.fail_creations([full]);
    let (backend, mut events) = backend(&api, &[]);
    let asked = Instant::now();
    backend.set_target(2);
    there(&api, &[2]).await;
    assert_eq!(waiting(&mut events).await, "running with 0 of 2 executors: exceeded quota: q, used: pods=1");
    api.run(&name(2));
    assert_eq!(next(&mut events).await, reachable(2));
    assert_eq!(waiting(&mut events).await, "running with 1 of 2 executors: exceeded quota: q, used: pods=1");
    assert!(asked.elapsed() < Duration::from_secs(3), "before the next is tried: {:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn credentials_are_read_once_more_and_then_refused() {
    let api = FakeApi::default();
    let unknown = Fault::Refused { code: 401, reason: "Unauthorized", message: "who?", retry_after: 0 };
    api.fail_creations([unknown.clone(), unknown]);
    let (backend, mut events) = backend(&api, &[]);
    backend.set_target(1);
    let ClusterEvent::Refused { why } = change(&mut events).await else { panic!("it is refused") };
    assert_eq!(why, "cannot create executors: the API server does not accept these credentials: who?");
    assert_eq!(api.asked("POST"), 2);
    // Somebody mends it: the try of each minute finds out.
    there(&api, &[1]).await;
}

const NO_RIGHT: Fault = Fault::Refused { code: 403, reason: "Forbidden", message: "no right", retry_after: 0 };

/// The API server had just begun: its first answer ended the application.
#[tokio::test(start_paused = true)]
async fn a_right_that_is_refused_for_a_moment_is_no_refusal() {
    let api = FakeApi::default();
    api.fail_creations([NO_RIGHT, NO_RIGHT, NO_RIGHT]);
    let (backend, mut events) = backend(&api, &[]);
    let asked = Instant::now();
    backend.set_target(3);
    there(&api, &[1, 2, 3]).await;
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    api.run(&name(1));
    assert_eq!(change(&mut events).await, reachable(1));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_taken_back() {
    let api = FakeApi::default();
    api.fail_creations([NO_RIGHT, NO_RIGHT]);
    let (backend, mut events) = backend(&api, &[]);
    let asked = Instant::now();
    backend.set_target(1);
    let refused = ClusterEvent::Refused { why: "cannot create executors: no right".into() };
    assert_eq!(change(&mut events).await, refused);
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    assert_eq!(change(&mut events).await, ClusterEvent::Refused { why: String::new() });
    there(&api, &[1]).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_refused_for_long_is_said_and_taken_back_when_it_is_allowed() {
    let api = FakeApi::default();
    let (backend, mut events) = backend(&api, &[]);
    backend.set_target(1);
    there(&api, &[1]).await;
    api.forbid(true);
    let refused = ClusterEvent::Refused { why: "cannot watch executors: you may not look".into() };
    assert_eq!(change(&mut events).await, refused);
    api.forbid(false);
    assert_eq!(change(&mut events).await, ClusterEvent::Refused { why: String::new() });
    api.run(&name(1));
    assert_eq!(change(&mut events).await, reachable(1));
}

#[tokio::test(start_paused = true)]
async fn executors_behind_an_api_server_that_hangs_are_cut_off_until_it_answers() {
    let api = FakeApi::default();
    let (backend, mut events) = backend(&api, &[]);
    backend.set_target(1);
    there(&api, &[1]).await;
    api.run(&name(1));
    assert_eq!(change(&mut events).await, reachable(1));
    tokio::time::sleep(Duration::from_secs(10)).await;
    api.hang(true);
    let until_cut_off = async |wanted: bool| {
        let asked = Instant::now();
        while backend.is_cut_off() != wanted {
            let dialled = timeout(Duration::from_secs(5), backend.dial(ExecutorId(1))).await;
            assert!(!matches!(dialled, Ok(Ok(_))), "this server forwards nothing");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        asked.elapsed()
    };
    let noticed = until_cut_off(true).await;
    assert!(noticed < Duration::from_secs(8), "before links are given up: {noticed:?}");
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(backend.is_cut_off());
    api.hang(false);
    let back = until_cut_off(false).await;
    assert!(back < Duration::from_secs(8), "{back:?}");
}

#[tokio::test(start_paused = true)]
async fn what_never_comes_to_run_is_refused_and_in_the_end_replaced() {
    let api = FakeApi::default();
    let (backend, mut events) = backend(&api, &[]);
    let asked = Instant::now();
    backend.set_target(1);
    there(&api, &[1]).await;
    api.wait(&name(1), "ErrImagePull", "r/vonk:9: not found");
    assert_eq!(waiting(&mut events).await, "cannot pull image i on node-a: not found");
    let ClusterEvent::Refused { why } = change(&mut events).await else { panic!("it is refused") };
    assert_eq!((why.as_str(), asked.elapsed().as_secs()), ("cannot pull image i on node-a: not found", 60));
    let mut lost = async || loop {
        if let Some(ClusterEvent::Lost { cause, why, .. }) = events.next().await {
            return (cause, why);
        }
    };
    let (cause, why) = timeout(Duration::from_secs(700), lost()).await.unwrap();
    assert_eq!(cause, LossCause::Infrastructure);
    assert_eq!(why, "e1 did not run within 10 min: cannot pull image i on node-a: not found");
    there(&api, &[2]).await;
}

#[tokio::test(start_paused = true)]
async fn no_more_executors_than_can_be_reached() {
    let api = FakeApi::default();
    let (backend, mut events) = backend(&api, &[("k8s.forward_max", "2")]);
    backend.set_target(5);
    there(&api, &[1, 2]).await;
    let why = waiting(&mut events).await;
    assert!(why.contains("at most 2 executors") && why.contains("--deploy-mode cluster"), "{why}");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(api.names().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_executors_take_few_requests_and_little_time() {
    let api = FakeApi::default();
    let (backend, mut events) = backend(&api, &[("k8s.forward_max", "1000"), ("k8s.pending_max", "1000")]);
    let asked = Instant::now();
    backend.set_target(1_000);
    let all = async {
        while api.names().len() < 1_000 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, all).await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(25), "a burst of 100, then 50 each second: {:?}", asked.elapsed());
    for name in api.names() {
        api.run(&name);
    }
    for _ in 0..1_000 {
        change(&mut events).await;
    }
    assert_eq!(api.asked("POST"), 1_000);
    let others = api.asked("") - 1_000;
    assert!(others <= 100, "{others} other requests");
}

//! Which pods come and go?
//!
//! Level-triggered: what is wanted and what is there decide, not how it came about, and asking again does no harm.

use std::collections::BTreeMap;
use std::time::Duration;

use model::Timestamp;

/// A pod that does not run after so long is replaced: where it waits, nothing may come any more.
pub const RUNS_WITHIN: Duration = Duration::from_secs(600);

/// An executor that was released has drained, and ends by itself within its own bounds (5 s for acknowledgements, 2 s for
/// last words). Then its pod is deleted.
pub const ENDS_WITHIN: Duration = Duration::from_secs(10);

/// How long a released executor that has not ended may take after SIGTERM: it has nothing left to drain.
const GRACE: Duration = Duration::from_secs(5);

/// How long a pod may take that never ran, or whose container has ended.
const AT_ONCE: Duration = Duration::from_secs(1);

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// So many executors beyond those released.
    pub executors: u32,
    /// So many pods may be on their way.
    pub pending_max: u32,
}

/// How far a pod has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is to be created: it was not sent, or the answer told nothing.
    Unsent,
    /// It is being created.
    Creating,
    /// It is there, and does not run.
    Pending,
    /// It runs.
    Running,
    /// It has ended, and its end was read.
    Ended,
}

/// A pod that is known by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pod {
    /// How far it has come.
    pub state: State,
    /// When it was asked for.
    pub since: Timestamp,
    /// When it was released, if it was.
    pub released: Option<Timestamp>,
    /// Its deletion was asked for.
    pub deleting: bool,
}

/// What is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// What time it is.
    pub now: Timestamp,
    /// Every pod of this epoch that is not known to be gone.
    pub pods: BTreeMap<u64, Pod>,
    /// The number of the next pod. Those below were given out.
    pub next: u64,
    /// So many creations may be sent now.
    pub budget: u32,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodChange {
    /// Create a pod.
    Create {
        /// Its number.
        n: u64,
    },
    /// Delete a pod.
    Delete {
        /// Its number.
        n: u64,
        /// How long its containers may take to end.
        grace: Duration,
    },
    /// Report a pod lost and delete it: it has not come to run.
    GiveUp {
        /// Its number.
        n: u64,
        /// Why.
        why: String,
    },
}

/// What is to be done, the least harmful first: deletions of what nobody wants, then creations.
#[must_use]
pub fn reconcile(wanted: &Wanted, observed: &Observed) -> Vec<PodChange> {
    let now = observed.now;
    let mut changes = Vec::new();
    let mut live = Vec::new();
    for (&n, pod) in observed.pods.iter().filter(|(_, pod)| !pod.deleting) {
        match (pod.state, pod.released) {
            (State::Ended, _) | (State::Unsent | State::Pending, Some(_)) => {
                changes.push(PodChange::Delete { n, grace: AT_ONCE });
            }
            (State::Running, Some(at)) => {
                if now.since(at) >= ENDS_WITHIN {
                    changes.push(PodChange::Delete { n, grace: GRACE });
                }
            }
            // What is being created can be deleted once it is there.
            (State::Creating, Some(_)) => {}
            (State::Pending, None) if now.since(pod.since) >= RUNS_WITHIN => {
                let why = format!("did not run within {} min", RUNS_WITHIN.as_secs() / 60);
                changes.push(PodChange::GiveUp { n, why });
            }
            (State::Unsent | State::Creating | State::Pending | State::Running, None) => live.push((n, pod.state)),
        }
    }
    let target = wanted.executors as usize;
    let surplus = live.len().saturating_sub(target);
    if surplus > 0 {
        let mut idle: Vec<_> = live.iter().filter(|(_, state)| can_be_taken_back(*state)).copied().collect();
        idle.sort_by_key(|&(n, state)| (state != State::Unsent, std::cmp::Reverse(n)));
        changes.extend(idle.iter().take(surplus).map(|&(n, _)| PodChange::Delete { n, grace: AT_ONCE }));
        return changes;
    }
    let unsent = live.iter().filter(|(_, state)| *state == State::Unsent).map(|&(n, _)| n);
    let on_their_way = live.iter().filter(|(_, state)| *state != State::Running).count();
    let room = (wanted.pending_max as usize).saturating_sub(on_their_way);
    let new = (observed.next..).take((target - live.len()).min(room));
    changes.extend(unsent.chain(new).take(observed.budget as usize).map(|n| PodChange::Create { n }));
    changes
}

fn can_be_taken_back(state: State) -> bool {
    match state {
        State::Unsent | State::Pending => true,
        State::Creating | State::Running | State::Ended => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WANTED: Wanted = Wanted { executors: 0, pending_max: 100 };

    fn pod(state: State) -> Pod {
        Pod { state, since: Timestamp::default(), released: None, deleting: false }
    }

    fn observed(pods: &[(u64, Pod)]) -> Observed {
        let next = pods.iter().map(|(n, _)| n + 1).max().unwrap_or(1);
        Observed { now: Timestamp::from_millis(1_000), pods: pods.iter().copied().collect(), next, budget: 50 }
    }

    fn create(ns: impl IntoIterator<Item = u64>) -> Vec<PodChange> {
        ns.into_iter().map(|n| PodChange::Create { n }).collect()
    }

    fn delete(ns: impl IntoIterator<Item = u64>) -> Vec<PodChange> {
        ns.into_iter().map(|n| PodChange::Delete { n, grace: AT_ONCE }).collect()
    }

    #[test]
    fn what_is_missing_is_created_within_budget_and_room() {
        let four = Wanted { executors: 4, ..WANTED };
        assert_eq!(reconcile(&four, &observed(&[])), create(1..=4));
        assert_eq!(reconcile(&four, &Observed { budget: 3, ..observed(&[]) }), create(1..=3));
        assert_eq!(reconcile(&Wanted { pending_max: 2, ..four }, &observed(&[])), create(1..=2));
        let some = [(3, pod(State::Running)), (5, pod(State::Creating)), (6, pod(State::Unsent))];
        assert_eq!(reconcile(&four, &observed(&some)), create([6, 7]), "the same name again, then a new one");
    }

    #[test]
    fn scaling_down_takes_what_was_not_sent_then_the_youngest_that_waits_and_no_more() {
        let some = [
            (1, pod(State::Unsent)),
            (2, pod(State::Pending)),
            (3, pod(State::Pending)),
            (4, pod(State::Running)),
            (5, pod(State::Creating)),
        ];
        let down = |executors| reconcile(&Wanted { executors, ..WANTED }, &observed(&some));
        assert_eq!(down(4), delete([1]));
        assert_eq!(down(3), delete([1, 3]));
        assert_eq!(down(0), delete([1, 3, 2]), "what runs is released by whoever knows what it does");
    }

    #[test]
    fn what_is_released_may_end_by_itself_and_does_not_count() {
        let released = Pod { released: Some(Timestamp::from_millis(1_000)), ..pod(State::Running) };
        let mut observed = observed(&[(1, released)]);
        assert_eq!(reconcile(&Wanted { executors: 1, ..WANTED }, &observed), create([2]));
        observed.now = Timestamp::from_millis(11_000);
        assert_eq!(reconcile(&WANTED, &observed), [PodChange::Delete { n: 1, grace: GRACE }]);
        observed.pods.insert(1, Pod { state: State::Ended, ..released });
        observed.now = Timestamp::from_millis(2_000);
        assert_eq!(reconcile(&WANTED, &observed), delete([1]), "its end was read");
        observed.pods.insert(1, Pod { deleting: true, ..released });
        assert_eq!(reconcile(&WANTED, &observed), []);
    }

    #[test]
    fn what_never_runs_is_given_up_and_replaced() {
        let mut observed = observed(&[(1, pod(State::Pending))]);
        observed.now = Timestamp::default() + RUNS_WITHIN;
        let changes = reconcile(&Wanted { executors: 1, ..WANTED }, &observed);
        assert_eq!(changes[0], PodChange::GiveUp { n: 1, why: "did not run within 10 min".into() });
        assert_eq!(changes[1..], create([2]));
    }

    /// What may happen between two looks.
    #[derive(Debug, Clone)]
    enum Step {
        Target(u32),
        Budget(u32),
        /// The pod at this place among those known goes one state further.
        Further(usize),
        /// A creation comes to nothing.
        Lost(usize),
        /// A pod ends.
        Ends(usize),
        Release(usize),
        /// A deleted pod is gone.
        Gone(usize),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            1 => (0..12u32).prop_map(Step::Target),
            1 => (0..6u32).prop_map(Step::Budget),
            4 => (0..16usize).prop_map(Step::Further),
            1 => (0..16usize).prop_map(Step::Lost),
            1 => (0..16usize).prop_map(Step::Ends),
            1 => (0..16usize).prop_map(Step::Release),
            2 => (0..16usize).prop_map(Step::Gone),
            1 => (0..20_000u64).prop_map(Step::Wait),
        ]
    }

    fn apply(changes: &[PodChange], observed: &mut Observed) {
        for change in changes {
            match *change {
                PodChange::Create { n } => {
                    observed.next = observed.next.max(n + 1);
                    observed.pods.insert(n, Pod { since: observed.now, ..pod(State::Creating) });
                }
                PodChange::Delete { n, .. } | PodChange::GiveUp { n, .. } => {
                    if let Some(pod) = observed.pods.get_mut(&n) {
                        pod.deleting = true;
                    }
                }
            }
        }
    }

    fn live(observed: &Observed) -> usize {
        let lives = |pod: &&Pod| !pod.deleting && pod.released.is_none() && pod.state != State::Ended;
        observed.pods.values().filter(lives).count()
    }

    fn happen(step: &Step, wanted: &mut Wanted, observed: &mut Observed) {
        let at = |place: usize| observed.pods.keys().nth(place).copied();
        match *step {
            Step::Target(executors) => wanted.executors = executors,
            Step::Budget(budget) => observed.budget = budget,
            Step::Wait(ms) => observed.now = observed.now + Duration::from_millis(ms),
            Step::Gone(place) => {
                if let Some(n) = at(place).filter(|n| observed.pods[n].deleting) {
                    observed.pods.remove(&n);
                }
            }
            Step::Further(place) | Step::Lost(place) | Step::Ends(place) | Step::Release(place) => {
                let Some(pod) = at(place).and_then(|n| observed.pods.get_mut(&n)) else { return };
                pod.state = match (step, pod.state) {
                    (Step::Further(_), State::Creating) => State::Pending,
                    (Step::Further(_), State::Pending) => State::Running,
                    (Step::Lost(_), State::Creating) => State::Unsent,
                    (Step::Ends(_), State::Pending | State::Running) => State::Ended,
                    (_, state) => state,
                };
                if matches!(step, Step::Release(_)) {
                    pod.released.get_or_insert(observed.now);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn never_too_many_and_never_the_wrong_one(steps in prop::collection::vec(step(), 1..80)) {
            let mut wanted = Wanted { executors: 3, pending_max: 5 };
            let mut observed = Observed { budget: 4, ..observed(&[]) };
            let mut given = 0;
            for step in &steps {
                happen(step, &mut wanted, &mut observed);
                let before = live(&observed);
                let changes = reconcile(&wanted, &observed);
                let creations = changes.iter().filter(|change| matches!(change, PodChange::Create { .. }));
                prop_assert!(creations.count() <= observed.budget as usize);
                for change in &changes {
                    match *change {
                        PodChange::Create { n } => match observed.pods.get(&n) {
                            Some(known) => prop_assert_eq!(known.state, State::Unsent),
                            None => {
                                prop_assert!(n > given, "{} was given out before", n);
                                given = n;
                            }
                        },
                        PodChange::Delete { n, .. } => {
                            let known = observed.pods[&n];
                            prop_assert!(known.state != State::Running || known.released.is_some(), "{} works", n);
                        }
                        PodChange::GiveUp { n, .. } => prop_assert_eq!(observed.pods[&n].state, State::Pending),
                    }
                }
                apply(&changes, &mut observed);
                prop_assert!(live(&observed) <= before.max(wanted.executors as usize));
                let waiting = observed.pods.values().filter(|p| {
                    !p.deleting && p.released.is_none() && !matches!(p.state, State::Running | State::Ended)
                });
                prop_assert!(waiting.count() <= 5.max(before));
                let again = reconcile(&wanted, &Observed { budget: 0, ..observed.clone() });
                prop_assert_eq!(again, vec![], "asking again changes nothing");
            }
            // Left alone, what is wanted is there in the end.
            observed.budget = 50;
            wanted.pending_max = 100;
            for _ in 0..200 {
                let changes = reconcile(&wanted, &observed);
                apply(&changes, &mut observed);
                observed.pods.retain(|_, pod| !pod.deleting);
                for pod in observed.pods.values_mut() {
                    pod.state = match pod.state {
                        State::Creating => State::Pending,
                        State::Pending => State::Running,
                        state => state,
                    };
                    if pod.released.is_some() && pod.state == State::Running {
                        pod.state = State::Ended;
                    }
                }
            }
            let running = observed.pods.values().filter(|pod| pod.state == State::Running).count();
            prop_assert!(running >= wanted.executors as usize);
            prop_assert_eq!(reconcile(&wanted, &observed), vec![]);
        }
    }
}

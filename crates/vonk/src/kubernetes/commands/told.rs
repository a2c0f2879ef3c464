//! What has a driver told of its application, and how long ago?

use std::time::Duration;

use driver::standing::{StageLine, Standing};
use k8s_backend::applications::ago;
use model::AppId;
use serde::Serialize;

use super::{history, store};
use crate::config::Config;

/// So many stages are shown.
const STAGES: usize = 8;

/// What a driver told, and how old it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Told {
    /// How long ago.
    pub(crate) age_seconds: u64,
    /// What.
    #[serde(flatten)]
    pub(crate) standing: Standing,
}

impl Told {
    pub(crate) fn new(standing: Standing) -> Self {
        Self { age_seconds: standing.age().as_secs(), standing }
    }

    /// In a few words.
    pub(crate) fn brief(&self) -> String {
        let Standing { executors, tasks, .. } = &self.standing;
        let what = match self.standing.word() {
            word @ ("running" | "waiting") => {
                let all = tasks.running + tasks.waiting + tasks.done;
                format!("{word}, {}, {} of {all} tasks", count(executors.len() as u64, "executor"), tasks.done)
            }
            word => format!("{word}, {}", count(tasks.done, "task")),
        };
        format!("{what} ({} ago)", ago(Duration::from_secs(self.age_seconds)))
    }

    /// All of it that people want to know. What is in `said` was said before.
    pub(crate) fn text(&self, said: &[String]) -> String {
        let Standing { executors, executors_lost, tasks, jobs, stages, end, .. } = &self.standing;
        let age = ago(Duration::from_secs(self.age_seconds));
        let mut lines = vec![format!("its driver said {age} ago: {}", self.standing.word())];
        if self.standing.is_stale() {
            lines.push("  it should have said more since: it is dead, asleep, or cut off from the store".to_owned());
        }
        let lost = if *executors_lost > 0 { format!(", {executors_lost} lost") } else { String::new() };
        lines.push(format!("  executors: {}{lost}", executors.len()));
        let failed = if tasks.failed > 0 { format!(", {} failed", tasks.failed) } else { String::new() };
        lines.push(format!(
            "  tasks: {} running, {} waiting, {} done{failed}",
            tasks.running, tasks.waiting, tasks.done
        ));
        let failed = if jobs.failed > 0 { format!(", {} failed", jobs.failed) } else { String::new() };
        lines.push(format!("  jobs: {} running, {} done{failed}", jobs.running.len(), jobs.done));
        lines.extend(jobs.running.iter().take(STAGES).map(|name| format!("    {name}")));
        lines.extend(stages.iter().take(STAGES).map(|stage| {
            let failed = if stage.failed > 0 { format!(", {} failed", stage.failed) } else { String::new() };
            let StageLine { stage, name, tasks, done, running, .. } = stage;
            format!("  {stage} {name}: {done} of {tasks} tasks, {running} running{failed}")
        }));
        if let Some(rest) = stages.len().checked_sub(STAGES).filter(|rest| *rest > 0) {
            lines.push(format!("  and {rest} more stages"));
        }
        if let Some(why) = self.standing.waiting.as_ref().filter(|why| end.is_none() && !said.contains(why)) {
            let since = self.standing.waiting_since_unix_ms.unwrap_or(self.standing.written_unix_ms);
            let waited = Duration::from_millis(self.standing.written_unix_ms.saturating_sub(since));
            lines.push(format!("  for {}: {why}", ago(waited)));
        }
        if let Some(error) = end.as_ref().and_then(|end| end.error.as_ref()) {
            lines.push(format!("  error: {error}"));
        }
        if let Some(code) = end.as_ref().and_then(|end| end.exit_code).filter(|code| *code != 0) {
            lines.push(format!("  exit code {code}"));
        }
        lines.join("\n")
    }
}

fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// What the store has of an application; nothing if no store is named, or it has nothing. A store that fails is said, and
/// the rest of the answer is worth something all the same.
pub(crate) async fn told(config: &Config, app: AppId) -> Option<Told> {
    let store = store::open(config).ok()?;
    match history::told(&store, app).await {
        Ok(standing) => standing.map(Told::new),
        Err(error) => {
            eprintln!("what its driver told is missing: {:#}", anyhow::Error::new(error));
            None
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use driver::standing::{End, ExecutorLine, Jobs, Tasks};
    use model::Epoch;

    use super::*;

    pub(in super::super) fn standing() -> Standing {
        Standing {
            app: AppId(7),
            epoch: Epoch(1),
            name: "nightly".into(),
            master: "k8s://".into(),
            submitted: true,
            namespace: Some("team-a".into()),
            root: Some("vonk-a".into()),
            began_unix_ms: 0,
            written_unix_ms: 60_000,
            executors: vec![ExecutorLine { executor: "e1".into(), place: "node-a".into() }],
            executors_lost: 2,
            waiting: Some("waiting for room".into()),
            waiting_since_unix_ms: Some(20_000),
            tasks: Tasks { running: 1, waiting: 4, done: 3, failed: 1 },
            jobs: Jobs { running: vec!["count at main.rs:3".into()], done: 5, failed: 0 },
            stages: vec![StageLine {
                stage: "s1".into(),
                name: "count".into(),
                tasks: 8,
                done: 3,
                running: 1,
                failed: 1,
            }],
            end: None,
        }
    }

    #[test]
    fn what_a_driver_told_is_told_with_its_age() {
        let told = Told { age_seconds: 4, standing: standing() };
        // It was written long ago, so it is stale, too.
        assert_eq!(
            told.text(&[]),
            "its driver said 4 s ago: waiting\n  it should have said more since: it is dead, asleep, or cut off from the \
             store\n  executors: 1, 2 lost\n  tasks: 1 running, 4 waiting, 3 done, 1 failed\n  jobs: 1 running, 5 done\n    \
             count at main.rs:3\n  s1 count: 3 of 8 tasks, 1 running, 1 failed\n  for 40 s: waiting for room"
        );
        assert!(!told.text(&["waiting for room".to_owned()]).contains("for 40 s"), "it was said");
        assert_eq!(told.brief(), "waiting, 1 executor, 3 of 8 tasks (4 s ago)");
    }

    #[test]
    fn an_end_is_told_with_its_error_and_code() {
        let end = Some(End { unix_ms: 60_000, error: Some("run job `count`".into()), exit_code: Some(1) });
        let told = Told { age_seconds: 300, standing: Standing { end, ..standing() } };
        let text = told.text(&[]);
        assert!(text.starts_with("its driver said 5 min ago: failed\n  executors: 1"), "{text}");
        assert!(text.ends_with("\n  error: run job `count`\n  exit code 1"), "{text}");
        assert_eq!(told.brief(), "failed, 3 tasks (5 min ago)");
    }
}

//! What has a driver or an executor printed?
//!
//! Its pod's log says so while there is one that can be read, and the end of it in the store says so afterwards.

use std::time::Duration;

use k8s_backend::access::Cluster;
use k8s_backend::applications::{Root, see};
use k8s_backend::chain;
use k8s_backend::follow::Heard;
use k8s_backend::log::{self, Which};
use k8s_backend::refusal::Answer;
use model::ids::ExecutorId;
use model::{AppId, exit};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::connection::Connection;
use super::found::{Found, NAME_A_STORE, find};
use super::output::bytes;
use super::store::{self, Store, StoreError};
use super::{Usage, history};

/// Lines on their way to the terminal.
const LINES: usize = 256;

/// A log of which nothing has come for so long is looked for elsewhere, unless it is to be followed: a request may take 10 s,
/// and is made twice.
const NOTHING_FOR: Duration = Duration::from_secs(30);

/// What the kubelet sends as a log if the container's is gone.
const NO_LOG: &[u8] = b"unable to retrieve container logs for ";

/// So many of whom there are logs are named.
const NAMED: usize = 5;

/// Flags of `vonk logs`.
#[derive(Debug, clap::Args)]
pub(crate) struct Logs {
    /// Its id, its name, or the name of its root
    app: String,

    /// Of this executor, as in e3 or 3, instead of the driver
    #[arg(short, long, value_name = "EXECUTOR")]
    executor: Option<String>,

    /// Go on until it ends
    #[arg(short, long)]
    follow: bool,

    /// So many lines from the end
    #[arg(long, value_name = "LINES", value_parser = clap::value_parser!(i64).range(0..))]
    tail: Option<i64>,

    #[command(flatten)]
    connection: Connection,
}

/// Why no pod has shown a log.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Unread {
    /// In one sentence.
    why: String,
    /// With which code the command ends if nobody else has it.
    code: u8,
}

/// A log that is nowhere, or of which only a part could be shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{says}")]
pub(crate) struct NotShown {
    says: String,
    /// The code with which the command ends.
    pub(crate) code: u8,
}

impl Logs {
    pub(crate) async fn run(self) -> Result<u8, anyhow::Error> {
        let executor = self.executor.as_deref().map(number).transpose()?;
        let config = self.connection.config()?;
        let (app, unread) = match find(&config, &self.app).await? {
            Found::There { cluster, root } => {
                let app = root.app();
                match self.of_cluster(&cluster, *root, executor).await? {
                    None => return Ok(exit::DONE),
                    Some(unread) => (app, unread),
                }
            }
            Found::Past(past) => (past.id(), Unread::gone("its pod is gone")),
            Found::Away { past, why } => (past.id(), Unread { why: format!("{why:#}"), code: exit::LOST }),
        };
        let who = executor.map_or_else(|| "driver".to_owned(), |executor| executor.to_string());
        let wanted = Wanted { app, called: &self.app, who: &who };
        let (says, printed) = of_store(store::open(&config), &wanted, unread).await?;
        eprintln!("{says}");
        bytes(last(&printed, self.tail));
        Ok(exit::DONE)
    }

    /// Prints what the pod has printed; or says why it cannot be read.
    async fn of_cluster(
        &self,
        cluster: &Cluster,
        root: Root,
        executor: Option<ExecutorId>,
    ) -> Result<Option<Unread>, anyhow::Error> {
        let seeing = match see(cluster, root).await {
            Ok(seeing) => seeing,
            Err(error) => return Ok(Some(Unread { why: chain(&error), code: error.exit_code() })),
        };
        let pod = match (seeing.pod(executor).and_then(|pod| pod.metadata.name.clone()), &seeing.root, executor) {
            (Some(pod), ..) => pod,
            (None, Root::Lease(_), None) => {
                let why =
                    "its driver is no pod: what it prints is where it was started, and the end of it goes to the store";
                return Ok(Some(Unread::gone(why)));
            }
            (None, ..) => return Ok(Some(Unread::gone("there is no pod of it"))),
        };
        let (send, mut lines) = mpsc::channel::<Heard>(LINES);
        let which = Which { follow: self.follow, tail: self.tail };
        let reading = async move { log::read(cluster, &pod, which, &send).await.map_err(|answer| (pod, answer)) };
        print(reading, &mut lines, self.follow, &mut bytes).await
    }
}

impl Unread {
    fn gone(why: &str) -> Self {
        Self { why: why.to_owned(), code: exit::WRONG }
    }

    /// A part was shown already.
    fn of_the_rest(self) -> NotShown {
        NotShown { says: format!("show the rest: {}", self.why), code: self.code }
    }

    fn answered(pod: &str, answer: &Answer) -> Self {
        let code = match answer.code {
            401 | 403 => exit::REFUSED,
            0 | 408 | 429 | 500..=599 => exit::LOST,
            _ => exit::WRONG,
        };
        let said = if answer.message.is_empty() { format!("HTTP {}", answer.code) } else { answer.message.clone() };
        Self { why: format!("the log of {pod} cannot be read: {said}"), code }
    }
}

/// Prints lines as they come; or says why none came.
///
/// # Errors
/// There will be no more, although there should be.
async fn print(
    reading: impl Future<Output = Result<(), (String, Answer)>>,
    lines: &mut mpsc::Receiver<Heard>,
    follow: bool,
    out: &mut impl FnMut(&[u8]),
) -> Result<Option<Unread>, anyhow::Error> {
    let mut reading = std::pin::pin!(reading);
    let mut nothing = std::pin::pin!(sleep(NOTHING_FOR));
    let (mut came, mut complaint, mut read) = (false, None, None);
    loop {
        let heard = tokio::select! {
            biased;
            Some(heard) = lines.recv() => heard,
            ended = &mut reading, if read.is_none() => {
                read = Some(ended);
                continue;
            }
            () = &mut nothing, if !follow && read.is_none() => {
                let unread = Unread { why: format!("nothing of its log has come for {} s", NOTHING_FOR.as_secs()), code: exit::LOST };
                return if came { Err(unread.of_the_rest().into()) } else { Ok(Some(unread)) };
            }
            else => break,
        };
        match heard {
            Heard::Line(line) if !came && line.starts_with(NO_LOG) => complaint = Some(line),
            Heard::Line(line) => {
                came = true;
                nothing.as_mut().reset(Instant::now() + NOTHING_FOR);
                out(&line);
            }
            // Whoever does not follow it does not wait for it either.
            Heard::Said(text) if !follow && !came => {
                let why = text.rsplit_once("; ").map_or(text.as_str(), |(why, _)| why).to_owned();
                return Ok(Some(Unread { why, code: exit::LOST }));
            }
            Heard::Said(text) => eprintln!("{text}"),
        }
    }
    match (read.unwrap_or(Ok(())), complaint) {
        (Err((pod, answer)), _) if came => Err(Unread::answered(&pod, &answer).of_the_rest().into()),
        (Err((pod, answer)), _) => Ok(Some(Unread::answered(&pod, &answer))),
        (Ok(()), Some(complaint)) if !came => Ok(Some(Unread::gone(String::from_utf8_lossy(&complaint).trim_end()))),
        (Ok(()), _) => Ok(None),
    }
}

/// Whose log is wanted.
struct Wanted<'a> {
    app: Option<AppId>,
    /// The application, as it was asked for.
    called: &'a str,
    /// `driver`, or an executor as in `e3`.
    who: &'a str,
}

/// The end of a log that no pod has shown, and what is said of it.
///
/// # Errors
/// There is none, or the store refuses or does not answer.
async fn of_store(
    store: Result<Store, StoreError>,
    wanted: &Wanted<'_>,
    unread: Unread,
) -> Result<(String, Vec<u8>), anyhow::Error> {
    let &Wanted { app, called, who } = wanted;
    let show = format!("show the log of {who} of `{called}`: {}", unread.why);
    let missing = |instead: String| NotShown { says: format!("{show}, {instead}"), code: unread.code };
    let failed = |error: StoreError| anyhow::Error::new(error).context(show.clone());
    let store = match store {
        Ok(store) => store,
        Err(StoreError::Unset) => {
            let instead = format!("and no `store` is configured, where its end would be; {NAME_A_STORE}");
            return Err(missing(instead).into());
        }
        Err(error) => return Err(failed(error)),
    };
    let kept = match app {
        Some(app) => history::log(&store, app, who).await.map_err(&failed)?,
        None => None,
    };
    if let Some(kept) = kept {
        let epoch = kept.epoch.0;
        let says = format!("{}; this is the end of the log of {who} that the store has, of epoch {epoch}", unread.why);
        return Ok((says, kept.printed));
    }
    let others = match app {
        Some(app) => history::logs(&store, app).await.map_err(&failed)?,
        None => Vec::new(),
    };
    Err(missing(elsewhere(&others, called)).into())
}

/// That the store has no such log, and what to do.
fn elsewhere(others: &[String], called: &str) -> String {
    if others.is_empty() {
        return format!("and the store has no log of it; `vonk diagnose {called}` says what has become of it");
    }
    let named = others.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = match others.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("and the store has none of it, since nobody keeps what is empty, but those of {named}{more}")
}

/// So many lines from the end; all if it is not said how many.
fn last(printed: &[u8], lines: Option<i64>) -> &[u8] {
    let Some(lines) = lines.and_then(|lines| usize::try_from(lines).ok()) else { return printed };
    let ends =
        printed.strip_suffix(b"\n").unwrap_or(printed).iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    match lines.checked_sub(1) {
        None => &[],
        Some(before) => &printed[ends.map(|(at, _)| at + 1).nth(before).unwrap_or(0)..],
    }
}

fn number(text: &str) -> Result<ExecutorId, Usage> {
    let digits = text.strip_prefix('e').unwrap_or(text);
    digits.parse().map(ExecutorId).map_err(|_| Usage(format!("read --executor {text}: want a number, as in e3 or 3")))
}

#[cfg(test)]
mod tests {
    use model::{Epoch, keys};

    use super::super::code_of;
    use super::super::history::tests::store;
    use super::*;

    const APP: AppId = AppId(7);

    async fn kept(store: Result<Store, StoreError>, who: &str, unread: Unread) -> Result<(String, String), String> {
        let wanted = Wanted { app: Some(APP), called: "nightly", who };
        match of_store(store, &wanted, unread).await {
            Ok((says, printed)) => Ok((says, String::from_utf8(printed).unwrap())),
            Err(error) => Err(format!("{}: {error:#}", code_of(&error))),
        }
    }

    async fn with_logs(who: &[&str]) -> Result<Store, StoreError> {
        let store = store();
        for who in who {
            store.write(&keys::log(APP, Epoch(2), who), b"one\ntwo\n".to_vec()).await.unwrap();
        }
        Ok(store)
    }

    #[tokio::test]
    async fn a_log_that_no_pod_shows_is_the_stores_and_says_so() {
        let away = Answer { code: 502, message: "dial tcp: no route to host".into(), ..Answer::default() };
        let unread = Unread::answered("vonk-a-x", &away);
        let says = "the log of vonk-a-x cannot be read: dial tcp: no route to host; this is the end of the log of driver that the store has, of epoch 2";
        let found = kept(with_logs(&["driver"]).await, "driver", unread).await;
        assert_eq!(found, Ok((says.to_owned(), "one\ntwo\n".to_owned())));
    }

    #[tokio::test]
    async fn a_log_that_is_nowhere_says_what_to_do() {
        let gone = || Unread::gone("its pod is gone");
        let refused = Answer { code: 403, message: "pods \"a\" is forbidden".into(), ..Answer::default() };
        let waits = Answer {
            code: 400,
            message: "container \"vonk\" in pod \"a\" is waiting to start".into(),
            ..refused.clone()
        };
        let executors = ["driver", "e1", "e2", "e3", "e4", "e5", "e6"];
        let said = [
            kept(with_logs(&[]).await, "driver", gone()).await,
            kept(with_logs(&executors).await, "e9", gone()).await,
            kept(Err(StoreError::Unset), "driver", gone()).await,
            kept(with_logs(&[]).await, "driver", Unread::answered("a", &refused)).await,
            kept(with_logs(&[]).await, "driver", Unread::answered("a", &waits)).await,
            kept(Err(StoreError::Local("file:///a".into())), "driver", gone()).await,
        ];
        let said: Vec<_> = said.into_iter().map(Result::unwrap_err).collect();
        assert_eq!(
            said,
            [
                "2: show the log of driver of `nightly`: its pod is gone, and the store has no log of it; `vonk diagnose nightly` says what has become of it",
                "2: show the log of e9 of `nightly`: its pod is gone, and the store has none of it, since nobody keeps what is empty, but those of driver, e1, e2, e3, e4 and 2 more",
                "2: show the log of driver of `nightly`: its pod is gone, and no `store` is configured, where its end would be; set --conf store=s3://bucket/prefix, or VONK_STORE",
                "78: show the log of driver of `nightly`: the log of a cannot be read: pods \"a\" is forbidden, and the store has no log of it; `vonk diagnose nightly` says what has become of it",
                "2: show the log of driver of `nightly`: the log of a cannot be read: container \"vonk\" in pod \"a\" is waiting to start, and the store has no log of it; `vonk diagnose nightly` says what has become of it",
                "2: show the log of driver of `nightly`: its pod is gone: use the store `file:///a` on Kubernetes: pods cannot see it; set store to an s3://, gs:// or az:// URL",
            ]
        );
    }

    /// What is heard of a pod's log, and how it ends; that it does not, if it is not said.
    async fn heard(
        heard: Vec<Heard>,
        end: Option<Result<(), Answer>>,
        follow: bool,
    ) -> (String, Result<Option<Unread>, String>) {
        let (send, mut lines) = mpsc::channel(LINES);
        let reading = async move {
            for heard in heard {
                send.send(heard).await.unwrap();
            }
            match end {
                Some(end) => end.map_err(|answer| ("a".to_owned(), answer)),
                None => std::future::pending().await,
            }
        };
        let mut out = Vec::new();
        let read = print(reading, &mut lines, follow, &mut |bytes: &[u8]| out.extend_from_slice(bytes)).await;
        (String::from_utf8(out).unwrap(), read.map_err(|error| format!("{}: {error:#}", code_of(&error))))
    }

    fn line(text: &str) -> Heard {
        Heard::Line(text.as_bytes().to_vec())
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_keeps_a_log_from_being_read_is_heard() {
        let gone = Answer { code: 404, message: "pods \"a\" not found".into(), ..Answer::default() };
        let unread = |why: &str, code| ("".to_owned(), Ok(Some(Unread { why: why.to_owned(), code })));
        let away = || Heard::Said("the log cannot be read for 2 s: no answer; it goes on by itself".to_owned());
        let lost = "unable to retrieve container logs for containerd://x";
        assert_eq!(heard(vec![line("one\n")], Some(Ok(())), false).await, ("one\n".to_owned(), Ok(None)));
        assert_eq!(heard(vec![], Some(Ok(())), false).await, (String::new(), Ok(None)), "it has printed nothing");
        let not_found = "the log of a cannot be read: pods \"a\" not found";
        assert_eq!(heard(vec![], Some(Err(gone.clone())), true).await, unread(not_found, exit::WRONG));
        assert_eq!(heard(vec![line(lost)], Some(Ok(())), false).await, unread(lost, exit::WRONG));
        assert_eq!(
            heard(vec![away()], None, false).await,
            unread("the log cannot be read for 2 s: no answer", exit::LOST)
        );
        assert_eq!(heard(vec![], None, false).await, unread("nothing of its log has come for 30 s", exit::LOST));
        let followed = heard(vec![away(), line("one\n")], Some(Ok(())), true).await;
        assert_eq!(followed, ("one\n".to_owned(), Ok(None)), "whoever follows waits");
        let broken = heard(vec![line("one\n")], Some(Err(gone)), false).await;
        assert_eq!(
            broken,
            ("one\n".to_owned(), Err(format!("2: show the rest: {not_found}"))),
            "half is not shown twice"
        );
    }

    #[test]
    fn the_last_lines_of_a_stored_log_are_as_many_as_of_a_pods() {
        let last = |text: &'static str, lines| std::str::from_utf8(last(text.as_bytes(), lines)).unwrap();
        assert_eq!(last("a\nb\nc\n", None), "a\nb\nc\n");
        assert_eq!(last("a\nb\nc\n", Some(2)), "b\nc\n");
        assert_eq!(last("a\nb\nc", Some(1)), "c");
        assert_eq!(last("a\n\n\n", Some(2)), "\n\n");
        assert_eq!(last("a\nb\n", Some(9)), "a\nb\n");
        assert_eq!((last("a\nb\n", Some(0)), last("", Some(3))), ("", ""));
    }

    #[test]
    fn a_count_of_lines_is_none_below_zero() {
        use clap::Args;
        let parsed = |tail: &str| {
            let command = Logs::augment_args(clap::Command::new("logs"));
            command.try_get_matches_from(["logs", "a", tail]).is_ok()
        };
        assert!(parsed("--tail=0") && !parsed("--tail=-1"));
    }
}

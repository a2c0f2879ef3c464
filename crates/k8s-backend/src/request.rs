//! How often is a request made that a person waits for?

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::answer::within;
use crate::refusal::{Answer, Request, Verdict, judge};
use model::exit;

/// How long a request is repeated while the API server is away.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);

/// The first wait between two tries; it doubles.
const AGAIN: Duration = Duration::from_millis(250);

/// The longest wait between two tries.
const AGAIN_MAX: Duration = Duration::from_secs(5);

/// A request that was not granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The cluster refuses; trying again finds the same.
    #[error("{doing}: {why}")]
    Refused {
        /// What was asked for.
        doing: String,
        /// In its own words, and what to do.
        why: String,
    },
    /// A quota is full; there may be room later.
    #[error("{doing}: {why}")]
    NoRoom {
        /// What was asked for.
        doing: String,
        /// In the quota's words.
        why: String,
    },
    /// The API server was away for too long.
    #[error("{doing}: the API server does not answer: {why}")]
    Unreachable {
        /// What was asked for.
        doing: String,
        /// What it did instead.
        why: String,
    },
}

impl RequestError {
    /// The code with which a command ends that made the request.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { .. } => exit::REFUSED,
            Self::NoRoom { .. } => exit::NO_ROOM,
            Self::Unreachable { .. } => exit::LOST,
        }
    }
}

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Granted<T> {
    /// The answer.
    Yes(T),
    /// An object of that name is there already. It may be ours, if an answer was lost.
    Exists {
        /// An answer to this very request was lost before.
        lost_answer: bool,
    },
    /// It is not there, or another of the same name is.
    Gone,
}

/// Makes a request until it is answered, for half a minute at most.
pub(crate) async fn insist<T, F>(
    doing: &str,
    kind: Request,
    mut send: impl FnMut() -> F,
) -> Result<Granted<T>, RequestError>
where
    F: Future<Output = kube::Result<T>>,
{
    let until = Instant::now() + GIVE_UP_AFTER;
    let (mut wait, mut lost_answer) = (AGAIN, false);
    loop {
        let answer = match within(send()).await {
            Ok(answered) => return Ok(Granted::Yes(answered)),
            Err(answer) => answer,
        };
        let doing = || doing.to_owned();
        match judge(kind, &answer) {
            Verdict::Exists => return Ok(Granted::Exists { lost_answer }),
            Verdict::Gone => return Ok(Granted::Gone),
            // A precondition on the uid: another of the same name is none of ours.
            Verdict::Conflict if kind == Request::Delete => return Ok(Granted::Gone),
            Verdict::Quota { why } => return Err(RequestError::NoRoom { doing: doing(), why }),
            Verdict::Stop { why } | Verdict::Unauthorized { why } => {
                return Err(RequestError::Refused { doing: doing(), why });
            }
            Verdict::Away => lost_answer = true,
            Verdict::Conflict | Verdict::Overloaded { .. } => {}
        }
        let pause = answer.retry_after.unwrap_or(wait).min(AGAIN_MAX);
        if Instant::now() + pause > until {
            return Err(RequestError::Unreachable { doing: doing(), why: said(&answer) });
        }
        sleep(pause).await;
        wait = (wait * 2).min(AGAIN_MAX);
    }
}

/// Asks for something that is there, such as a list.
pub(crate) async fn ask<T, F>(doing: &str, send: impl FnMut() -> F) -> Result<T, RequestError>
where
    F: Future<Output = kube::Result<T>>,
{
    match insist(doing, Request::Watch, send).await? {
        Granted::Yes(answer) => Ok(answer),
        Granted::Exists { .. } | Granted::Gone => {
            Err(RequestError::Refused { doing: doing.to_owned(), why: "it is gone".to_owned() })
        }
    }
}

fn said(answer: &Answer) -> String {
    match answer.message.trim() {
        "" => format!("HTTP {}", answer.code),
        message => message.to_owned(),
    }
}

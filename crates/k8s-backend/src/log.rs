//! How does what a pod prints arrive, once and in order, although connections break?
//!
//! The kubelet puts the time before each line. A new connection begins at the second of the last line, and what was seen
//! is skipped.

use std::time::Duration;

use futures::{AsyncBufRead, AsyncBufReadExt};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, LogParams};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::access::Cluster;
use crate::answer::within;
use crate::follow::Heard;
use crate::names::CONTAINER;
use crate::refusal::Answer;
use crate::seen::Seen;

/// The longest piece of a line that is passed on at once.
const PIECE: usize = 64 << 10;

/// The wait before a broken connection is made again.
const AGAIN: Duration = Duration::from_millis(500);

/// That a log cannot be read is said after so long, and so often.
const SAID_AFTER: Duration = Duration::from_secs(2);
const SAID_AGAIN: Duration = Duration::from_secs(30);

/// What of a log is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Which {
    /// More as it comes, until the container ends.
    pub follow: bool,
    /// So many lines from the end; all if none.
    pub tail: Option<i64>,
}

/// Sends the lines of the container `vonk`, each with its end of line, to `lines`, and says when they cannot be read for a while;
/// returns when there will be no more, or nobody listens.
///
/// # Errors
/// There is no such pod, or its log may not be read.
pub async fn read(cluster: &Cluster, pod: &str, which: Which, lines: &mpsc::Sender<Heard>) -> Result<(), Answer> {
    let mut place = Place::default();
    loop {
        let pods: Api<Pod> = cluster.api();
        let params = LogParams {
            container: Some(CONTAINER.to_owned()),
            follow: which.follow,
            timestamps: true,
            tail_lines: which.tail.filter(|_| place.last.is_empty()),
            since_time: place.last.parse::<Timestamp>().ok(),
            ..LogParams::default()
        };
        let opened = within(pods.log_stream(pod, &params)).await;
        if let Some(said) = place.away(opened.as_ref().err()) {
            // Who does not listen any more is noticed below.
            let _ = lines.send(Heard::Said(said)).await;
        }
        let broke = match opened {
            Ok(stream) => match pass_on(stream, &mut place, lines).await {
                Passed::Unheard => return Ok(()),
                Passed::End if !which.follow => return Ok(()),
                Passed::End | Passed::Broke => false,
            },
            // Whoever follows waits until it has begun.
            Err(answer) if which.follow && answer.code == 400 && place.last.is_empty() => false,
            // It was there, and went while it was read.
            Err(answer) if answer.code == 404 && !place.last.is_empty() => return Ok(()),
            Err(answer) if is_away(&answer) => true,
            Err(answer) => return Err(answer),
        };
        // The end of a stream is the end of the container, or of a connection.
        match within(pods.get_opt(pod)).await {
            Ok(None) => return Ok(()),
            Ok(Some(pod)) if !broke && Seen::of_any(&pod).is_none_or(|seen| seen.ended()) && !place.last.is_empty() => {
                return Ok(());
            }
            Ok(Some(pod)) if Seen::of_any(&pod).is_none_or(|seen| seen.ended()) => place.empty_ends += 1,
            Ok(Some(_)) | Err(_) => {}
        }
        if place.empty_ends > 2 {
            return Ok(());
        }
        tokio::select! {
            () = sleep(AGAIN) => {}
            () = lines.closed() => return Ok(()),
        }
    }
}

/// Whether it may be answered later.
fn is_away(answer: &Answer) -> bool {
    matches!(answer.code, 0 | 408 | 429 | 500..=599)
}

/// How far a log was read.
#[derive(Debug, Default)]
struct Place {
    /// The time of the last line, as the kubelet writes it.
    last: String,
    /// How many lines had this time.
    same: usize,
    /// How many lines of this time are to be skipped.
    skip: usize,
    /// How often an ended container had nothing to say.
    empty_ends: u32,
    /// Since when the log cannot be opened, and when that was said last.
    away: Option<(Instant, Option<Instant>)>,
}

impl Place {
    /// Takes note of an answer, and gives what is to be said if there is none for a while.
    fn away(&mut self, refused: Option<&Answer>) -> Option<String> {
        let Some(answer) = refused.filter(|answer| is_away(answer)) else {
            self.away = None;
            return None;
        };
        let now = Instant::now();
        let (since, said) = self.away.get_or_insert((now, None));
        let (lasted, due) = (now - *since, said.is_none_or(|said| now - said >= SAID_AGAIN));
        if lasted < SAID_AFTER || !due {
            return None;
        }
        *said = Some(now);
        Some(format!("the log cannot be read for {} s: {}; it goes on by itself", lasted.as_secs(), answer.message))
    }

    /// A connection begins: the server repeats what it sent of the last second.
    fn again(&mut self) {
        self.skip = self.same;
    }

    /// Whether a line with this time is new.
    fn is_new(&mut self, time: &str) -> bool {
        match time.cmp(self.last.as_str()) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal if self.skip > 0 => {
                self.skip -= 1;
                false
            }
            std::cmp::Ordering::Equal => {
                self.same += 1;
                true
            }
            std::cmp::Ordering::Greater => {
                (self.last, self.same, self.skip) = (time.to_owned(), 1, 0);
                true
            }
        }
    }
}

enum Passed {
    /// The server said that this was all.
    End,
    /// The connection broke.
    Broke,
    /// Nobody listens.
    Unheard,
}

async fn pass_on(stream: impl AsyncBufRead, place: &mut Place, lines: &mpsc::Sender<Heard>) -> Passed {
    let mut stream = std::pin::pin!(stream);
    place.again();
    let (mut begins, mut wanted) = (true, true);
    loop {
        let mut piece = Vec::new();
        match read_piece(&mut stream, &mut piece).await {
            Ok(()) if piece.is_empty() => return Passed::End,
            Ok(()) => {}
            Err(_) => return Passed::Broke,
        }
        let ends = piece.ends_with(b"\n");
        if begins {
            let blank = piece.iter().position(|byte| *byte == b' ');
            let time =
                blank.and_then(|blank| std::str::from_utf8(&piece[..blank]).ok().map(|time| (time.to_owned(), blank)));
            wanted = match time {
                Some((time, blank)) if time.parse::<Timestamp>().is_ok() => {
                    piece.drain(..=blank);
                    place.is_new(&time)
                }
                // Not the container's: the kubelet itself complains.
                _ => true,
            };
        }
        begins = ends;
        if wanted && lines.send(Heard::Line(piece)).await.is_err() {
            return Passed::Unheard;
        }
    }
}

/// Reads to the end of the line, but no more than a piece.
async fn read_piece(stream: &mut (impl AsyncBufRead + Unpin), piece: &mut Vec<u8>) -> std::io::Result<()> {
    while piece.len() < PIECE {
        let available = stream.fill_buf().await?;
        if available.is_empty() {
            return Ok(());
        }
        let room = available.len().min(PIECE - piece.len());
        let (taken, ends) = match available[..room].iter().position(|byte| *byte == b'\n') {
            Some(end) => (end + 1, true),
            None => (room, false),
        };
        piece.extend_from_slice(&available[..taken]);
        stream.consume_unpin(taken);
        if ends {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn passed(texts: &[&str]) -> String {
        let (send, mut lines) = mpsc::channel(100);
        let mut place = Place::default();
        for text in texts {
            pass_on(futures::io::Cursor::new(text.as_bytes()), &mut place, &send).await;
        }
        drop(send);
        let mut all = Vec::new();
        while let Some(Heard::Line(line)) = lines.recv().await {
            all.extend(line);
        }
        String::from_utf8(all).unwrap()
    }

    #[tokio::test]
    async fn a_connection_that_broke_repeats_nothing() {
        let first =
            "2026-01-01T00:00:00.100000000Z a\n2026-01-01T00:00:00.200000000Z b\n2026-01-01T00:00:00.200000000Z b\n";
        let second = format!("{first}2026-01-01T00:00:00.200000000Z b\n2026-01-01T00:00:00.300000000Z c d\n");
        assert_eq!(passed(&[first, &second]).await, "a\nb\nb\nb\nc d\n");
    }

    /// Whoever followed it saw nothing for as long as the API server was away.
    #[tokio::test(start_paused = true)]
    async fn a_log_that_cannot_be_read_says_so_now_and_then() {
        let (mut place, mut said) = (Place::default(), Vec::new());
        let none = Answer { message: "no answer".into(), ..Answer::default() };
        for _ in 0..45 {
            said.extend(place.away(Some(&none)));
            sleep(Duration::from_secs(1)).await;
        }
        let sentence =
            |seconds: u32| format!("the log cannot be read for {seconds} s: no answer; it goes on by itself");
        assert_eq!(said, [sentence(2), sentence(32)]);
        assert_eq!(place.away(None), None);
        assert_eq!(place.away(Some(&none)), None, "a moment is nothing");
    }

    #[tokio::test]
    async fn a_long_line_is_one_line_and_what_has_no_time_is_passed_on() {
        let long = "x".repeat(3 * PIECE);
        let text =
            format!("2026-01-01T00:00:00.1Z {long}\nunable to retrieve container logs\n2026-01-01T00:00:00.2Z y");
        assert_eq!(passed(&[&text]).await, format!("{long}\nunable to retrieve container logs\ny"));
    }
}

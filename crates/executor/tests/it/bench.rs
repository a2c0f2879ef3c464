//! How many empty tasks a second does an executor in this process run?

use std::time::Instant;

use futures::{SinkExt, StreamExt};
use model::messages::*;

use crate::fake::*;

const TASKS: u32 = 100_000;

/// Far below what a quiet machine does: a guard against a slow path, not a measurement.
const AT_LEAST_PER_SECOND: f64 = 5_000.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_empty_tasks() {
    let rig = rig(2).await;
    let (mut outgoing, mut incoming) = (rig.driver.outgoing, rig.driver.incoming);
    outgoing.send(body(1, "empty")).await.unwrap();
    let begun = Instant::now();
    // As a driver does: a few tasks per slot are launched ahead, and each turn is answered in one message.
    let (mut next, mut ended, mut messages) = (0, 0, 0u32);
    let mut launch = |n: u32| {
        let tasks: Vec<_> = (next..TASKS.min(next + n)).map(|p| task(1, p)).collect();
        next += n;
        tasks
    };
    outgoing.send(ToExecutor::Launch(launch(256))).await.unwrap();
    while ended < TASKS {
        if let Some(FromExecutor::Status(statuses)) = incoming.next().await {
            messages += 1;
            ended += u32::try_from(statuses.len()).unwrap();
            let heard = statuses.last().map_or(0, |status| status.number);
            outgoing.feed(ToExecutor::Acknowledge(heard)).await.unwrap();
            let tasks = launch(u32::try_from(statuses.len()).unwrap());
            if !tasks.is_empty() {
                outgoing.feed(ToExecutor::Launch(tasks)).await.unwrap();
            }
            outgoing.flush().await.unwrap();
        }
    }
    let per_second = f64::from(TASKS) / begun.elapsed().as_secs_f64();
    eprintln!("{per_second:.0} empty tasks/s, {:.1} statuses a message", f64::from(TASKS) / f64::from(messages));
    assert!(per_second > AT_LEAST_PER_SECOND, "{per_second:.0} tasks/s");
}

//! When may a destination's files be listed, so that they are all of a write's or none?

use tokio::time::Instant;

use super::error::Error;
use super::store::Files;
use super::{Destination, POLL_EVERY, Timing};

/// Waits until every committed write is published, and gives the number of the last entry: 0 for a folder that Vonk never
/// wrote to. Between two calls that give the same number nothing was published or deleted.
///
/// # Errors
/// [`Error::UnfinishedWrite`] if a committed write is not published within `timing.unfinished_wait`; else the store's.
///
/// # Cancellation
/// Leaves nothing behind.
pub async fn settled(destination: &Destination, timing: &Timing) -> Result<u64, Error> {
    let files = Files { destination, timing };
    let deadline = Instant::now() + timing.unfinished_wait;
    loop {
        let log = files.log().await?;
        let mut unfinished = None;
        for number in log.unfinished() {
            // A write that was given up has published nothing.
            if let Some(entry) = files.read_entry(number).await?
                && entry.is_commit()
            {
                unfinished = Some(entry.write);
                break;
            }
        }
        let Some(write) = unfinished else { return Ok(log.newest()) };
        if Instant::now() >= deadline {
            return Err(Error::UnfinishedWrite { destination: destination.url.clone(), write });
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

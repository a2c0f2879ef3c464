//! Which files make up a destination's rows, now?

use object_store::ObjectMeta;
use tokio::time::Instant;

use super::error::Error;
use super::store::Files;
use super::{Destination, POLL_EVERY, Timing};

/// The files that make up the destination's rows: all of a write's, or none. Names with a segment that begins with `_`
/// or `.` are skipped. A folder that Vonk never wrote to is listed as it is.
///
/// # Errors
/// [`Error::UnfinishedWrite`] if a committed write is not published within `timing.unfinished_wait`; else the store's.
///
/// # Cancellation
/// Leaves nothing behind.
pub async fn read_committed(destination: &Destination, timing: &Timing) -> Result<Vec<ObjectMeta>, Error> {
    let files = Files { destination, timing };
    let deadline = Instant::now() + timing.unfinished_wait;
    loop {
        let before = files.log().await?;
        let mut unfinished = None;
        for number in before.unfinished() {
            // A write that was given up has published nothing.
            if let Some(entry) = files.read_entry(number).await?
                && entry.is_commit()
            {
                unfinished = Some(entry.write);
                break;
            }
        }
        if unfinished.is_none() {
            let there = files.visible().await?;
            let after = files.log().await?;
            // What began while files were listed may be in the list in part.
            if after.newest() == before.newest() {
                return Ok(there.into_iter().map(|(_, meta)| meta).collect());
            }
            unfinished = files.read_entry(after.newest()).await?.map(|entry| entry.write);
        }
        if let Some(write) = unfinished
            && Instant::now() >= deadline
        {
            return Err(Error::UnfinishedWrite { destination: destination.url.clone(), write });
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

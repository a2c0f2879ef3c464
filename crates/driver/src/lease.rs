//! How does an application hold what it has in the store, and give it back?
//!
//! A store that others see is claimed before the first object is written, and the claim renewed while the driver lives.
//! A store of this process alone needs neither.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use model::{AppId, Epoch, Failure};
use object_store::ObjectStore;
use object_store::path::Path;
use shuffle::sweep::{self, LEASE_LIMIT, Lease, Leftovers, RENEW_EVERY, SettleWrites};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::commit;
use crate::event_loop::Message;

/// So often is a lease renewed within the time after which others may sweep it, whatever that time is: an hour and five
/// minutes, if nobody sets it. Not more often than [`RENEW_AT_MOST`].
const RENEWALS: u32 = 12;

/// A store need not hear of a driver more often.
const RENEW_AT_MOST: Duration = Duration::from_secs(1);

/// A renewal that failed is tried again after a tenth of the usual time.
const RETRIES_PER_RENEWAL: u32 = 10;

/// An application that ends while its claim is on its way waits so long for the answer: a lease that nobody heard of would stay
/// in the store until it has expired.
const CLAIM_WITHIN: Duration = Duration::from_secs(2);

/// Claims the epoch, says so, sweeps what dead drivers left, and renews until told to stop; gives the lease back.
pub(crate) struct Holder {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) root: Path,
    pub(crate) app: AppId,
    pub(crate) epoch: Epoch,
    /// What others left is removed when their leases are so old.
    pub(crate) sweep_after: Duration,
    pub(crate) mailbox: mpsc::Sender<Message>,
}

impl Holder {
    /// Holds the lease until `stopped`; then hands it to `given`.
    pub(crate) async fn hold(
        self,
        claimed: watch::Sender<bool>,
        stopped: CancellationToken,
        given: oneshot::Sender<Lease>,
    ) {
        let mut claim = pin!(Lease::claim(Arc::clone(&self.store), &self.root, self.app, self.epoch));
        let claim = tokio::select! {
            claim = &mut claim => claim,
            () = stopped.cancelled() => match timeout(CLAIM_WITHIN, claim).await {
                Ok(claim) => claim,
                Err(_) => return, // if it was claimed unheard, it expires
            },
        };
        let lease = match claim {
            Ok(lease) => lease,
            Err(error) => return self.doom("the application cannot claim its place in the store", error).await,
        };
        let _ = claimed.send(true);
        tokio::select! {
            () = stopped.cancelled() => {}
            ((), ()) = async { tokio::join!(self.renew(&lease), self.sweep()) } => {
                // What lies under it is another driver's now, and so is the lease.
                stopped.cancelled().await;
                return;
            }
        }
        let _ = given.send(lease);
    }

    async fn doom(&self, what: &str, error: sweep::Error) {
        let cause = error.into_failure();
        let failure = Failure::new(cause.kind.clone(), what).caused_by(cause.to_string());
        let _ = self.mailbox.send(Message::Doomed { failure }).await;
    }

    /// Renews until another driver holds the lease.
    async fn renew(&self, lease: &Lease) {
        let usual = (self.sweep_after / RENEWALS).clamp(RENEW_AT_MOST, RENEW_EVERY);
        let mut renewed = Instant::now();
        let mut wait = usual;
        loop {
            sleep(wait).await;
            let asked = Instant::now();
            match lease.renew().await {
                Ok(()) => (renewed, wait) = (asked, usual),
                Err(error @ sweep::Error::Store { .. }) if renewed.elapsed() < LEASE_LIMIT => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot renew the application's lease");
                    wait = usual / RETRIES_PER_RENEWAL;
                }
                Err(error) => {
                    let taken = matches!(error, sweep::Error::Taken { .. });
                    self.doom("the application has lost its place in the store", error).await;
                    if taken {
                        return;
                    }
                    return std::future::pending().await;
                }
            }
        }
    }

    async fn sweep(&self) {
        match sweep::sweep(self.store.as_ref(), &self.root, self.sweep_after, &settle()).await {
            Ok(swept) => {
                for (app, epoch) in swept.leases {
                    tracing::info!(%app, %epoch, "removed what an application had left whose driver died");
                }
                for (app, epoch, why) in swept.left {
                    tracing::warn!(%app, %epoch, why, "cannot remove all that a dead application has left");
                }
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot look for what dead applications left");
            }
        }
        match sweep::sweep_old(self.store.as_ref(), &self.root, sweep::KEEP_FOR).await {
            Ok(0) => {}
            Ok(objects) => tracing::info!(objects, "removed programs and history that were kept long enough"),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot remove all old programs and history");
            }
        }
    }
}

/// Removes everything that the application had, and last its lease.
pub(crate) async fn give_back(lease: Lease, known: Vec<Path>, leftovers: Leftovers) {
    match sweep::end(lease, known, leftovers, &settle()).await {
        Ok(swept) => tracing::debug!(objects = swept.objects, "the application leaves nothing behind"),
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "something is left for a sweep to remove");
        }
    }
}

/// Settles writes by the commit's own rules.
fn settle() -> impl SettleWrites {
    commit::SettleNotes { open: destination, timing: commit::Timing::default() }
}

/// The folder that a URL names.
pub(crate) fn destination(url: &str) -> Result<commit::Destination, Failure> {
    let (store, path) = shuffle::store::open(url).map_err(shuffle::Error::into_failure)?;
    Ok(commit::Destination { store, path, url: url.to_owned() })
}

//! What have dead applications left?

use std::time::Duration;

use k8s_backend::sweep::{Sweep, sweep};
use model::exit;
use shuffle::sweep::{KEEP_FOR, sweep as sweep_store, sweep_old};

use super::connection::{Connection, connect};
use super::output::{Format, json, line};
use super::store::{self, Store};

/// Nobody waits for it: all is deleted at once.
const ALL: usize = usize::MAX;

/// Flags of `vonk gc`.
#[derive(Debug, clap::Args)]
pub(crate) struct Gc {
    /// A driver in client mode that has said nothing for so long is dead
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = time)]
    older_than: Duration,

    /// How the answer looks
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,

    #[command(flatten)]
    connection: Connection,
}

/// What was removed.
#[derive(Debug, Default, PartialEq, Eq, serde::Serialize)]
struct Removed {
    /// Roots of dead applications.
    roots: Vec<String>,
    /// Leases of dead applications in the store.
    applications: Vec<String>,
    /// Objects of theirs, and old programs and history.
    objects: u64,
}

fn time(text: &str) -> Result<Duration, String> {
    let time = model::setting::parse_duration(text).ok_or_else(|| "want a time such as 30m".to_owned())?;
    // A driver renews its Lease every 15 s, and may be cut off from the API server for a while.
    if time < Duration::from_secs(120) {
        Err("want 2m at least: a living driver may be silent so long".into())
    } else {
        Ok(time)
    }
}

impl Gc {
    pub(crate) async fn run(self) -> Result<u8, anyhow::Error> {
        let config = self.connection.config()?;
        let cluster = connect(&config).await?;
        let roots = sweep(&cluster, Sweep { older_than: self.older_than, most: ALL, jobs: true }).await?;
        let mut removed = Removed { roots, ..Removed::default() };
        let has_store = !crate::config::STORE.value(config.values()).is_empty();
        if has_store {
            of_store(&store::open(&config)?, &config, &mut removed).await?;
        }
        match self.output {
            Format::Json => json(&removed),
            Format::Text => line(&text(&removed, has_store)),
        }
        Ok(exit::DONE)
    }
}

async fn of_store(store: &Store, config: &crate::config::Config, removed: &mut Removed) -> Result<(), anyhow::Error> {
    let after = driver::config::SWEEP_AFTER.duration(config.values())?;
    let settle = driver::commit::SettleNotes { open: store::destination, timing: driver::commit::Timing::default() };
    let swept = sweep_store(store.objects.as_ref(), &store.root, after, &settle).await?;
    for (app, epoch, why) in &swept.left {
        eprintln!("{app} (epoch {epoch}) is left for next time: {why}");
    }
    removed.applications = swept.leases.iter().map(|(app, _)| app.to_string()).collect();
    removed.objects = swept.objects + sweep_old(store.objects.as_ref(), &store.root, KEEP_FOR).await?;
    Ok(())
}

fn text(removed: &Removed, has_store: bool) -> String {
    let store = match has_store {
        true => format!("{} applications and {} objects in the store", removed.applications.len(), removed.objects),
        false => "no store is named (VONK_STORE)".to_owned(),
    };
    let roots = if removed.roots.is_empty() { "none".to_owned() } else { removed.roots.join(", ") };
    format!("removed roots: {roots}; {store}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_is_busy_is_not_dead() {
        assert_eq!(time("30m"), Ok(Duration::from_secs(1_800)));
        assert!(time("1s").unwrap_err().contains("2m at least"));
        assert!(time("soon").is_err());
    }
}

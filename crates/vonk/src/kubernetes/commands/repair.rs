//! How are results finished that a dead driver left unfinished?

use driver::commit::{Timing, repair};
use model::exit;

use super::output::{Format, json, line};
use super::store;

/// Flags of `vonk repair`.
#[derive(Debug, clap::Args)]
pub(crate) struct Repair {
    /// URL of the folder that was written to
    destination: String,

    /// How the answer looks
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// What was done.
#[derive(Debug, serde::Serialize)]
struct Repaired {
    /// Writes that were committed, and are published now.
    finished: Vec<String>,
    /// Writes that were given up, with what they had staged.
    aborted: Vec<String>,
    /// Writes whose drivers live.
    running: Vec<String>,
}

impl Repair {
    pub(crate) async fn run(self) -> Result<u8, anyhow::Error> {
        let destination = store::destination(&self.destination)?;
        let done = repair(&destination, &Timing::default()).await?;
        let names = |writes: &[model::write::WriteId]| writes.iter().map(ToString::to_string).collect();
        let repaired =
            Repaired { finished: names(&done.finished), aborted: names(&done.aborted), running: names(&done.running) };
        match self.output {
            Format::Json => json(&repaired),
            Format::Text => line(&format!(
                "finished {}, gave up {}, left {} whose drivers live",
                repaired.finished.len(),
                repaired.aborted.len(),
                repaired.running.len()
            )),
        }
        Ok(exit::DONE)
    }
}

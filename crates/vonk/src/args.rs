//! Which flags does every program of Vonk have?

use crate::config::{Config, Error};

/// Flags that a program flattens into its own: `#[command(flatten)] vonk: vonk::Args`.
#[derive(Debug, Clone, Default, clap::Args)]
// A program calls its own flags `Args` too, and names of groups are unique.
#[group(id = "vonk::Args")]
pub struct Args {
    /// Where executors are: local[N], local[*], local-cluster[EXECUTORS,CORES,MEMORY], k8s://[URL]
    #[arg(long, value_name = "MASTER", help_heading = "Engine")]
    pub master: Option<String>,

    /// Set a configuration key; may be repeated (docs/configuration.md lists them)
    #[arg(long = "conf", value_name = "KEY=VALUE", help_heading = "Engine")]
    pub conf: Vec<String>,
}

impl Args {
    /// Adds these flags to what file and environment said.
    ///
    /// # Errors
    /// An unknown key or a value that does not fit.
    pub fn apply(&self, config: &mut Config) -> Result<(), Error> {
        self.conf.iter().try_for_each(|pair| config.assign(pair))?;
        match &self.master {
            Some(master) => config.set("master", master, "--master"),
            None => Ok(()),
        }
    }
}

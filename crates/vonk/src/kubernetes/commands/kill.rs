//! How does an application end before its time?

use k8s_backend::applications::{find, remove, remove_pods};
use k8s_backend::request::RequestError;
use model::exit;

use super::connection::{Connection, connect};

/// Flags of `vonk kill`.
#[derive(Debug, clap::Args)]
pub(crate) struct Kill {
    /// Its id, its name, or the name of its root
    pub(crate) app: String,

    /// At once: its driver has no time for its last words
    #[arg(long)]
    pub(crate) now: bool,

    #[command(flatten)]
    pub(crate) connection: Connection,
}

impl Kill {
    pub(crate) async fn run(self) -> Result<u8, anyhow::Error> {
        let config = self.connection.config()?;
        let cluster = connect(&config).await?;
        let root = find(&cluster, &self.app).await?;
        remove(&cluster, &root).await?;
        if let Some(app) = root.app().filter(|_| self.now) {
            match remove_pods(&cluster, app).await {
                Ok(()) => {}
                Err(error @ RequestError::Refused { .. }) => {
                    eprintln!("{error}; its pods end within 30 s all the same")
                }
                Err(error) => return Err(error.into()),
            }
        }
        eprintln!("killed {}", root.name());
        Ok(exit::DONE)
    }
}

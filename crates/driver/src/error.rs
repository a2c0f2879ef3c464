//! What can go wrong while a driver starts?

/// Why a driver could not be started or asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting has a value that cannot be used.
    #[error(transparent)]
    Setting(#[from] model::setting::InvalidSetting),
    /// The executable of this process cannot be read.
    #[error("read this process's executable {path}")]
    Executable {
        /// Its path.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The identity with which executors are dialled cannot be used.
    #[error("prepare to dial executors")]
    Tls(#[from] proto::tls::Error),
}

//! What can go wrong while a driver starts?

/// Why a driver could not be started or asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting has a value that cannot be used.
    #[error("read setting `{key}`: `{value}` is {problem}")]
    Setting {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The executable of this process cannot be read.
    #[error("read this process's executable {path}")]
    Executable {
        /// Its path.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Executors are reached over a network, and no identity was given to prove who the driver is.
    #[error("prepare to dial executors: {0}")]
    Tls(String),
    /// A thread could not be started.
    #[error("start the driver's {what}")]
    Thread {
        /// What for.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

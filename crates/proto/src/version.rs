//! What if versions differ?
//!
//! Driver and executor are one release and one executable; whatever differs is refused at hello, and both values are
//! named. Nothing is negotiated.

use model::messages::{Hello, HelloReply};
use model::{AppId, Epoch, ExecutorId};

/// The version of the messages in `proto/executor.proto`. Goes up with every change that an older end would
/// misunderstand; hello and its reply never change their meaning.
pub const PROTOCOL: u32 = 1;

/// What differs between the two ends of a stream. `driver` and `executor` say which end has which value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// They speak different versions of the protocol.
    #[error("the driver speaks protocol {driver}, the executor {executor}: both must be one release of Vonk")]
    Protocol {
        /// The driver's.
        driver: u32,
        /// The executor's.
        executor: u32,
    },
    /// They belong to different applications.
    #[error("the driver is of application {driver}, the executor of {executor}")]
    App {
        /// The driver's.
        driver: AppId,
        /// The executor's.
        executor: AppId,
    },
    /// They belong to different runs of the driver.
    #[error("the driver is of {driver}, the executor of {executor}")]
    Epoch {
        /// The driver's.
        driver: Epoch,
        /// The executor's.
        executor: Epoch,
    },
    /// The driver reached another executor than it meant.
    #[error("the driver called {driver}, and {executor} answered")]
    Executor {
        /// Whom the driver called.
        driver: ExecutorId,
        /// Who answered.
        executor: ExecutorId,
    },
    /// They run different executables.
    #[error("the driver runs the executable {driver}, the executor {executor}: both must run the same file")]
    Program {
        /// SHA-256 of the driver's.
        driver: String,
        /// SHA-256 of the executor's.
        executor: String,
    },
}

/// Compares what the driver said with what the executor answered. Both ends ask this, and either may refuse.
///
/// # Errors
/// The first difference; it permits nothing, since another try would find the same.
pub fn compare(hello: &Hello, reply: &HelloReply) -> Result<(), Mismatch> {
    if hello.protocol != reply.protocol {
        return Err(Mismatch::Protocol { driver: hello.protocol, executor: reply.protocol });
    }
    if hello.app != reply.app {
        return Err(Mismatch::App { driver: hello.app, executor: reply.app });
    }
    if hello.epoch != reply.epoch {
        return Err(Mismatch::Epoch { driver: hello.epoch, executor: reply.epoch });
    }
    if hello.executor != reply.executor {
        return Err(Mismatch::Executor { driver: hello.executor, executor: reply.executor });
    }
    if hello.program != reply.program {
        return Err(Mismatch::Program { driver: hello.program.clone(), executor: reply.program.clone() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn hello() -> Hello {
        Hello {
            protocol: PROTOCOL,
            app: AppId(1),
            epoch: Epoch(1),
            executor: ExecutorId(3),
            program: "aa".into(),
            slots: 1,
            memory: 1,
            store: String::new(),
            settings: BTreeMap::new(),
        }
    }

    fn reply() -> HelloReply {
        HelloReply {
            protocol: PROTOCOL,
            app: AppId(1),
            epoch: Epoch(1),
            executor: ExecutorId(3),
            program: "aa".into(),
            holding: Vec::new(),
        }
    }

    #[test]
    fn each_difference_is_refused_and_names_both_values() {
        assert_eq!(compare(&hello(), &reply()), Ok(()));
        type Change = fn(&mut HelloReply);
        let cases: [(Change, &str); 5] = [
            (|r| r.protocol = 9, "the driver speaks protocol 1, the executor 9: both must be one release of Vonk"),
            (
                |r| r.app = AppId(2),
                "the driver is of application 00000000000000000000000001, the executor of 00000000000000000000000002",
            ),
            (|r| r.epoch = Epoch(2), "the driver is of epoch 1, the executor of epoch 2"),
            (|r| r.executor = ExecutorId(4), "the driver called e3, and e4 answered"),
            (
                |r| r.program = "bb".into(),
                "the driver runs the executable aa, the executor bb: both must run the same file",
            ),
        ];
        for (change, text) in cases {
            let mut other = reply();
            change(&mut other);
            assert_eq!(compare(&hello(), &other).unwrap_err().to_string(), text);
        }
    }
}

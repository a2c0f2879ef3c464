//! What does a master's name mean?

use std::fmt;
use std::str::FromStr;

use model::setting::parse_bytes;

/// Where a program's executors are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Master {
    /// `local[N]`: driver and executor in one process, `N` tasks at a time. `local[*]` takes every core, `local` one.
    Local {
        /// Tasks at a time.
        slots: u32,
    },
    /// `local-cluster[EXECUTORS,CORES]` or `local-cluster[EXECUTORS,CORES,MEMORY]`: executor processes of this machine.
    LocalCluster {
        /// Executor processes.
        executors: u32,
        /// Tasks at a time in each.
        slots: u32,
        /// Memory of each in bytes, if it is said here; `executor.memory` otherwise.
        memory: Option<u64>,
    },
    /// `k8s://` or `k8s://https://HOST:PORT`: pods of a Kubernetes cluster. Without an address, that of the kubeconfig's
    /// context or, in a pod, of the cluster around it.
    Kubernetes {
        /// The API server, if it is said here.
        url: Option<String>,
    },
}

/// A text that names no master.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "read master `{given}`: {problem}; want local[N], local[*], local-cluster[EXECUTORS,CORES,MEMORY] or k8s://[URL]"
)]
pub struct ParseMasterError {
    given: String,
    problem: String,
}

/// More slots or executors than any one machine can run: a slip of the keyboard.
const COUNT_MAX: u32 = 1_024;

impl FromStr for Master {
    type Err = ParseMasterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = |problem: &str| ParseMasterError { given: text.to_owned(), problem: problem.to_owned() };
        let count = |part: &str| match part.trim().parse() {
            Ok(n @ 1..=COUNT_MAX) => Ok(n),
            _ => Err(refuse(&format!("`{}` is no number from 1 to {COUNT_MAX}", part.trim()))),
        };
        let inner = |name: &str| text.strip_prefix(name)?.strip_prefix('[')?.strip_suffix(']');
        if text == "local" {
            return Ok(Self::Local { slots: 1 });
        }
        if let Some(slots) = inner("local") {
            let slots = if slots.trim() == "*" { cores() } else { count(slots)? };
            return Ok(Self::Local { slots });
        }
        if let Some(parts) = inner("local-cluster") {
            return match parts.split(',').collect::<Vec<_>>()[..] {
                [executors, slots] => {
                    Ok(Self::LocalCluster { executors: count(executors)?, slots: count(slots)?, memory: None })
                }
                [executors, slots, memory] => {
                    // Spark writes the memory as a number of MiB.
                    let memory = memory.trim().parse::<u64>().ok().map(|mib| mib << 20).or_else(|| parse_bytes(memory));
                    let memory = memory.filter(|&m| m > 0).ok_or_else(|| refuse("MEMORY is a size such as 512m"))?;
                    Ok(Self::LocalCluster { executors: count(executors)?, slots: count(slots)?, memory: Some(memory) })
                }
                _ => Err(refuse("it takes two or three values")),
            };
        }
        if let Some(address) = text.strip_prefix("k8s://") {
            let url = match address {
                "" => None,
                url if url.starts_with("https://") || url.starts_with("http://") => Some(url.to_owned()),
                // As Spark reads it.
                host => Some(format!("https://{host}")),
            };
            return Ok(Self::Kubernetes { url });
        }
        Err(refuse(match text.split(['[', ':']).next() {
            Some("local" | "local-cluster") => "its brackets are not closed",
            Some("k8s") => "it begins with k8s://",
            Some("yarn" | "mesos" | "spark") => "Vonk runs on Kubernetes and on one machine only",
            _ => "there is no such master",
        }))
    }
}

impl fmt::Display for Master {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { slots } => write!(f, "local[{slots}]"),
            Self::LocalCluster { executors, slots, memory: None } => write!(f, "local-cluster[{executors},{slots}]"),
            Self::LocalCluster { executors, slots, memory: Some(memory) } => {
                write!(f, "local-cluster[{executors},{slots},{}m]", memory >> 20)
            }
            Self::Kubernetes { url } => write!(f, "k8s://{}", url.as_deref().unwrap_or_default()),
        }
    }
}

/// How many tasks this machine computes at a time: its cores, or what a cgroup leaves of them.
fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| n.get() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masters_read_and_print() {
        for (text, master) in [
            ("local", Master::Local { slots: 1 }),
            ("local[4]", Master::Local { slots: 4 }),
            ("local-cluster[2,1]", Master::LocalCluster { executors: 2, slots: 1, memory: None }),
            ("local-cluster[2, 1, 512m]", Master::LocalCluster { executors: 2, slots: 1, memory: Some(512 << 20) }),
            ("local-cluster[2,1,1024]", Master::LocalCluster { executors: 2, slots: 1, memory: Some(1 << 30) }),
            ("k8s://", Master::Kubernetes { url: None }),
            ("k8s://https://10.0.0.1:6443", Master::Kubernetes { url: Some("https://10.0.0.1:6443".to_owned()) }),
            ("k8s://api.example.org:443", Master::Kubernetes { url: Some("https://api.example.org:443".to_owned()) }),
        ] {
            assert_eq!(text.parse(), Ok(master.clone()), "{text}");
            assert_eq!(master.to_string().parse(), Ok(master.clone()), "{master} reads back");
        }
        assert_eq!("local[*]".parse(), Ok(Master::Local { slots: cores() }));
    }

    #[test]
    fn what_is_no_master_says_what_would_be() {
        for (text, word) in [
            ("local[0]", "1 to 1024"),
            ("local[x]", "`x` is no number"),
            ("local[2", "not closed"),
            ("local-cluster[2]", "two or three"),
            ("local-cluster[2,1,0]", "512m"),
            ("yarn", "Kubernetes and on one machine"),
            ("k8s:", "begins with k8s://"),
            ("lokal[2]", "no such master"),
            ("", "no such master"),
        ] {
            let error = text.parse::<Master>().unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("local[N]"), "{error}");
        }
    }
}

//! How do a cluster's processes start, and how are they found again?
//!
//! Nothing is noted when one starts: whatever runs one of our programs and names our folder is ours. So a cluster can be
//! stopped whose start was interrupted, and a process number that passed to somebody else is not ended.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::network;
use super::state::State;

/// A control plane answers after some 5 s; this is time enough for a machine that builds at the same time.
const START_DEADLINE: Duration = Duration::from_secs(120);
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// How much of a log is shown when its process did not come up.
const LINES_SHOWN: usize = 8;

/// Programs that may be ended when they name the cluster's folder. Others do too: editors, `kubectl`, tests.
const OURS: &[&str] = &[
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubelet",
    "kwok",
    "containerd",
    "containerd-shim-runc-v2",
    "runc",
    "ctr",
];

/// Whose name has a version in it.
const S3_SERVER: &str = "versitygw";

/// A process that was just started.
pub(crate) struct Started {
    name: String,
    log: PathBuf,
    process: Child,
}

/// Starts a program in the cluster's network and a session of its own, so that it outlives this process and its terminal.
pub(crate) fn start(
    state: &State,
    name: &str,
    program: &Path,
    tell: impl FnOnce(&mut Command) -> Result<()>,
) -> Result<Started> {
    let log = state.log(name);
    let prints = fs::File::create(&log).with_context(|| format!("make {}", log.display()))?;
    let mut command = network::inside(Path::new("setsid"));
    command.arg(program).current_dir(state.folder());
    tell(&mut command)?;
    let process = command
        .stdin(Stdio::null())
        .stdout(prints.try_clone()?)
        .stderr(prints)
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    Ok(Started { name: name.to_owned(), log, process })
}

impl Started {
    /// Waits until something is true that this process should bring about.
    ///
    /// # Errors
    /// The process ended, or the deadline passed; with the end of its log.
    pub(crate) fn until(&mut self, what: &str, mut is_true: impl FnMut() -> bool) -> Result<()> {
        let began = Instant::now();
        while !is_true() {
            let ended = self.process.try_wait().with_context(|| format!("look after {}", self.name))?;
            if ended.is_some() || began.elapsed() > START_DEADLINE {
                let said = fs::read_to_string(&self.log).unwrap_or_default();
                let lines: Vec<&str> = said.lines().collect();
                let why = ended.map_or_else(|| format!("after {START_DEADLINE:?}"), |status| status.to_string());
                let end = lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n");
                bail!(
                    "{what}: {} did not bring it about ({why}); the end of {}:\n{end}",
                    self.name,
                    self.log.display()
                );
            }
            std::thread::park_timeout(LOOK_AGAIN_AFTER);
        }
        Ok(())
    }
}

/// Processes of the cluster, with the name of their program.
pub(crate) fn running(state: &State) -> Result<Vec<(u32, String)>> {
    let programs = command_lines()?.into_iter();
    Ok(programs.filter_map(|(pid, words)| Some((pid, ours(&words, state.folder())?))).collect())
}

/// Command lines of all processes, with a zero byte after each word.
fn command_lines() -> Result<Vec<(u32, Vec<u8>)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("list /proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that has just ended has none, like one that is the kernel's.
        found.push((pid, fs::read(entry.path().join("cmdline")).unwrap_or_default()));
    }
    Ok(found)
}

/// The name of the program that a command line starts, if it is one of ours.
fn ours(words: &[u8], folder: &Path) -> Option<String> {
    let words = String::from_utf8_lossy(words);
    let mut words = words.split('\0');
    let program = Path::new(words.next()?).file_name()?.to_str()?.to_owned();
    let known = OURS.contains(&program.as_str()) || program.starts_with(S3_SERVER);
    let below = format!("{}/", folder.display());
    (known && words.any(|word| word.contains(&below))).then_some(program)
}

/// The folder of a cluster that is not ours but has our address, so that only one of them can be up.
pub(crate) fn other_cluster(state: &State) -> Result<Option<PathBuf>> {
    let folders = command_lines()?.into_iter().filter_map(|(_, words)| folder_of_cluster(&words));
    Ok(folders.into_iter().find(|folder| folder != state.folder()))
}

/// The folder of the cluster whose API server has this command line.
fn folder_of_cluster(words: &[u8]) -> Option<PathBuf> {
    let words = String::from_utf8_lossy(words);
    let words: Vec<&str> = words.split('\0').collect();
    let after = |flag: &str| words.iter().skip_while(|word| **word != flag).nth(1);
    let is_ours = words[0].ends_with("kube-apiserver")
        && after("--advertise-address").is_some_and(|address| *address == network::MAIN_ADDRESS.to_string());
    let authority = Path::new(after("--client-ca-file").filter(|_| is_ours)?);
    authority.ancestors().nth(2).map(Path::to_path_buf)
}

/// Ends processes at once: nothing that they keep is needed.
///
/// # Errors
/// Some are still there when the deadline has passed.
pub(crate) fn end(what: &str, deadline: Duration, mut find: impl FnMut() -> Result<Vec<u32>>) -> Result<()> {
    let began = Instant::now();
    loop {
        let left = find()?;
        if left.is_empty() {
            return Ok(());
        }
        ensure!(began.elapsed() < deadline, "{what} did not end within {deadline:?}: {left:?}");
        // It fails if one of them has ended since.
        Command::new("kill").arg("-KILL").args(left.iter().map(u32::to_string)).output().context("run `kill`")?;
        std::thread::park_timeout(LOOK_AGAIN_AFTER);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{folder_of_cluster, ours};

    #[test]
    fn only_our_programs_with_our_folder_are_ended() {
        let folder = Path::new("/c/cluster");
        let words = |line: &str| line.replace(' ', "\0").into_bytes();
        let is = |line: &str| ours(&words(line), folder);
        assert_eq!(is("/usr/bin/etcd --data-dir /c/cluster/etcd").as_deref(), Some("etcd"));
        assert_eq!(is("/c/bin/versitygw-v1.8.0 posix /c/cluster/s3/objects").as_deref(), Some("versitygw-v1.8.0"));
        assert_eq!(is("kubelet --config=/c/cluster/node1/kubelet.json").as_deref(), Some("kubelet"));
        assert_eq!(
            is("containerd-shim-runc-v2 -address /c/cluster/node1/containerd.sock").as_deref().map(str::len),
            Some(23)
        );
        for other in
            ["etcd --data-dir /var/lib/etcd", "vim /c/cluster/log/etcd.log", "etcd --data-dir /c/cluster2/etcd", ""]
        {
            assert_eq!(is(other), None, "{other}");
        }
    }

    #[test]
    fn a_cluster_is_known_by_its_api_server() {
        let words = |line: &str| line.replace(' ', "\0").into_bytes();
        let line = "/b/kube-apiserver --advertise-address 10.99.0.1 --client-ca-file /d/cluster/pki/ca.crt";
        assert_eq!(folder_of_cluster(&words(line)).as_deref(), Some(Path::new("/d/cluster")));
        let elsewhere = "kube-apiserver --advertise-address 192.0.2.1 --client-ca-file /etc/kubernetes/pki/ca.crt";
        assert_eq!(folder_of_cluster(&words(elsewhere)), None);
        assert_eq!(folder_of_cluster(b""), None);
    }
}

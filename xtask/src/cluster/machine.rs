//! What does this machine allow, and what of it does Kubernetes change?

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::state::State;

/// What a kubelet writes for the whole kernel.
const CHANGED: &[&str] = &[
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

const SETTINGS: &str = "/proc/sys";

/// Whether this process may do everything.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// # Errors
/// Says why root is needed, and how a user gets it for this command alone, without cargo.
pub(crate) fn need_root(what: &str) -> Result<()> {
    let program = std::env::current_exe().unwrap_or_else(|_| "xtask".into());
    ensure!(
        is_root(),
        "a cluster needs root, for it makes a network namespace, mounts and cgroups: \
         `sudo --preserve-env=HOME,VONK_CACHE {} cluster {what}`",
        program.display()
    );
    Ok(())
}

/// # Errors
/// Root of this machine is no real one: it may not make what a cluster is made of. Seen before anything is built for it.
pub(crate) fn need_namespaces() -> Result<()> {
    let tried = Command::new("unshare").args(["--net", "--mount", "true"]).output().context("run `unshare`")?;
    let said = String::from_utf8_lossy(&tried.stderr);
    ensure!(tried.status.success(), "a cluster needs a network namespace and mounts: {}", said.trim());
    Ok(())
}

/// Gives a file to the user for whom `sudo` made this process root.
pub(crate) fn give_to_user(file: &Path) -> Result<()> {
    let user = std::env::var("SUDO_UID").ok().and_then(|user| user.parse().ok());
    let Some(user) = user else { return Ok(()) };
    std::os::unix::fs::chown(file, Some(user), None).with_context(|| format!("give {} to its user", file.display()))
}

/// Notes the kernel's settings before a kubelet changes them.
pub(crate) fn note_settings(state: &State) -> Result<()> {
    let note = state.path("sysctl.json");
    if note.exists() {
        return Ok(());
    }
    let read = |name: &'static str| Some((name, fs::read_to_string(Path::new(SETTINGS).join(name)).ok()?));
    let found: BTreeMap<&str, String> = CHANGED.iter().copied().filter_map(read).collect();
    fs::write(&note, serde_json::to_string(&found)?).with_context(|| format!("write {}", note.display()))
}

/// Puts back what was noted. What cannot be is told, and keeps nothing else from being undone.
pub(crate) fn restore_settings(state: &State) {
    let Ok(note) = fs::read_to_string(state.path("sysctl.json")) else { return };
    let noted: BTreeMap<String, String> = serde_json::from_str(&note).unwrap_or_default();
    for (name, value) in noted.iter().filter(|(name, _)| CHANGED.contains(&name.as_str())) {
        let file = Path::new(SETTINGS).join(name);
        let is = fs::read_to_string(&file).unwrap_or_default();
        if is != *value
            && let Err(error) = fs::write(&file, value)
        {
            eprintln!("set {name} back to {}: {error}", value.trim());
        }
    }
}

/// Unmounts everything below the folder, the innermost first.
///
/// # Errors
/// Something is still mounted there, so that removing the folder would remove what belongs to others.
pub(crate) fn unmount_below(folder: &Path) -> Result<()> {
    for mount in mounts_below(&mounts()?, folder).iter().rev() {
        // Lazily: what still uses it keeps it until it ends.
        Command::new("umount").arg("--lazy").arg(mount).output().with_context(|| format!("unmount {mount}"))?;
    }
    let left = mounts_below(&mounts()?, folder);
    ensure!(left.is_empty(), "still mounted: {}", left.join(", "));
    Ok(())
}

fn mounts() -> Result<String> {
    fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")
}

/// Where something is mounted below the folder, in the order in which it was mounted.
fn mounts_below(mounts: &str, folder: &Path) -> Vec<String> {
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let unescaped = places.map(|place| place.replace("\\040", " "));
    unescaped.filter(|place| Path::new(place) != folder && Path::new(place).starts_with(folder)).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::mounts_below;

    #[test]
    fn only_mounts_of_the_folder_are_undone() {
        let mounts = "proc /proc proc rw 0 0\noverlay /c/cluster/node1/a overlay rw 0 0\n\
            tmpfs /c/cluster/node1/a/b\\040c tmpfs rw 0 0\ntmpfs /c/cluster2 tmpfs rw 0 0\n";
        assert_eq!(mounts_below(mounts, Path::new("/c/cluster")), ["/c/cluster/node1/a", "/c/cluster/node1/a/b c"]);
    }
}

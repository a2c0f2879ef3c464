//! Which libraries does a program link?

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// What programs of users may link beside it, if this machine has it: as in docker/files.sh.
pub(super) const COMPANIONS: [&str; 9] = [
    "libgcc_s.so.1",
    "libm.so.6",
    "libpthread.so.0",
    "libdl.so.2",
    "librt.so.1",
    "libresolv.so.2",
    "libnss_dns.so.2",
    "libnss_files.so.2",
    "libstdc++.so.6",
];

/// The libraries of a program and the loader that finds them, where that looks for them. A program that is static has none.
pub(crate) fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let said = Command::new("ldd").arg(program).env("LC_ALL", "C").output().context("run `ldd`")?;
    let (listed, complaint) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    if complaint.contains("not a dynamic executable") {
        return Ok(Vec::new());
    }
    if !said.status.success() {
        bail!("find what {} links: {}", program.display(), complaint.trim());
    }
    let found = parse(&listed).with_context(|| format!("find what {} links", program.display()))?;
    Ok(with_companions(found, Path::is_file))
}

/// Adds the companions that lie beside the C library.
fn with_companions(mut found: Vec<PathBuf>, is_there: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let folder = found.iter().find(|library| library.ends_with("libc.so.6")).and_then(|library| library.parent());
    if let Some(folder) = folder.map(Path::to_path_buf) {
        let more = COMPANIONS.iter().map(|name| folder.join(name)).filter(|library| is_there(library));
        found.extend(more);
        found.sort();
        found.dedup();
    }
    found
}

/// Reads what `ldd` prints.
fn parse(listed: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in listed.lines().map(str::trim) {
        let (name, place) = line.split_once(" => ").unwrap_or((line, line));
        if place.starts_with("not found") {
            bail!("{name} is not on this machine");
        }
        // The kernel's own library has a name, but lies nowhere.
        let path = place.split(" (").next().unwrap_or_default();
        if path.starts_with('/') {
            found.push(PathBuf::from(path));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{parse, with_companions};

    #[test]
    fn libraries_and_the_loader_are_found() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffd7c9f2000)\n\
            \tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f0a8a400000)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f0a8a8e5000)\n";
        let found = parse(listed).unwrap();
        assert_eq!(found, ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from));
        assert!(parse("\tstatically linked\n").unwrap().is_empty());
    }

    #[test]
    fn what_users_link_is_added_once() {
        let found = ["/lib64/ld-linux-x86-64.so.2", "/lib/a/libm.so.6", "/lib/a/libc.so.6"].map(PathBuf::from);
        let all =
            with_companions(found.to_vec(), |path| path.starts_with("/lib/a") && !path.ends_with("libstdc++.so.6"));
        assert_eq!(all.iter().filter(|path| path.ends_with("libm.so.6")).count(), 1);
        assert_eq!(all.len(), 10);
        assert!(with_companions(Vec::new(), |_| true).is_empty(), "a static program has none");
    }

    #[test]
    fn a_library_that_is_missing_is_named() {
        let error = parse("\tlibfoo.so.1 => not found\n").unwrap_err();
        assert_eq!(error.to_string(), "libfoo.so.1 is not on this machine");
    }
}

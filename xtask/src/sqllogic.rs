//! Where are DataFusion's own scripts of queries?
//!
//! In its package of tests, which nothing is linked with: cargo fetches it for a manifest that is never built.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::workspace::{cache, cargo, output, root};

/// Whose scripts they are.
const PACKAGE: &str = "datafusion-sqllogictest";

/// What tests read to find them.
pub(crate) fn environment() -> Result<(&'static str, PathBuf)> {
    Ok(("VONK_TEST_SQLLOGIC", scripts()?))
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Package>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    #[serde(default)]
    manifest_path: PathBuf,
}

/// The folder of the scripts that belong to the version of DataFusion that is linked.
fn scripts() -> Result<PathBuf> {
    let lock = fs::read_to_string(root().join("Cargo.lock")).context("read Cargo.lock")?;
    let lock: Lock = toml::from_str(&lock).context("read Cargo.lock")?;
    let linked =
        lock.package.iter().find(|package| package.name == "datafusion").context("find datafusion in Cargo.lock")?;
    let folder = cache()?.join(format!("sqllogic-{}", linked.version));
    let manifest = folder.join("Cargo.toml");
    if !manifest.exists() {
        fs::create_dir_all(folder.join("src")).with_context(|| format!("make {}", folder.display()))?;
        fs::write(folder.join("src/lib.rs"), "").context("write a package that is never built")?;
        let text = format!(
            "[package]\nname = \"scripts\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n[dependencies]\n\
             {PACKAGE} = \"={}\"\n",
            linked.version
        );
        fs::write(&manifest, text).context("write a package that is never built")?;
    }
    // Fetches what is missing.
    let described = output(cargo().args(["metadata", "--format-version", "1", "--manifest-path"]).arg(&manifest))?;
    let described: Metadata = serde_json::from_slice(&described).context("read what `cargo metadata` says")?;
    let package = described.packages.into_iter().find(|package| package.name == PACKAGE);
    let manifest = package.with_context(|| format!("find {PACKAGE} among what cargo fetched"))?.manifest_path;
    Ok(manifest.with_file_name("test_files"))
}

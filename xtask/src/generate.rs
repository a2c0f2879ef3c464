//! How is the code made that follows from `.proto` files?
//!
//! Behind the feature `generate`: it links the code generators, which no other command should wait for.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::GenerateArgs;
use crate::workspace::{files, root, run};

const REMEDY: &str = "run `cargo xtask gen` and commit what it changes";

/// Generates it, or says what is stale.
pub(crate) fn wire_code(args: GenerateArgs) -> Result<()> {
    let mut stale = Vec::new();
    for (path, text) in made()? {
        if fs::read_to_string(&path).is_ok_and(|present| present == text) {
            continue;
        }
        if args.check {
            stale.push(path.display().to_string());
        } else {
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            eprintln!("wrote {}", path.display());
        }
    }
    if !stale.is_empty() {
        bail!("stale: {}; {REMEDY}", stale.join(", "));
    }
    Ok(())
}

/// Rust code of the messages and services that `crates/proto/proto` describes.
fn made() -> Result<Vec<(PathBuf, String)>> {
    let folder = root().join("crates/proto/proto");
    let sources = files("crates/proto/proto", ".proto")?;
    let descriptors = protox::compile(&sources, [&folder]).context("read the .proto files")?;
    let out = tempfile::tempdir()?;
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".")
        .btree_map(".")
        .emit_rerun_if_changed(false)
        .out_dir(out.path())
        .compile_fds(descriptors)
        .context("generate code from the .proto files")?;
    let mut code = Vec::new();
    for entry in fs::read_dir(out.path())? {
        let path = entry?.path();
        formatted(&path)?;
        let name = path.file_name().context("a generated file has a name")?;
        code.push((root().join("crates/proto/src/generated").join(name), fs::read_to_string(&path)?));
    }
    Ok(code)
}

/// Formats as the workspace does, so that `cargo fmt` leaves the committed file alone.
fn formatted(path: &Path) -> Result<()> {
    run(crate::workspace::command("rustfmt").args(["--edition", "2024", "--config-path"]).arg(root()).arg(path))
}

//! How does `crates/proto/src/generated` come from `executor.proto`?
//!
//! `cargo xtask gen` runs it; `--check` changes nothing and fails if the committed code is not what would be generated.
//! A crate of its own, so that nobody who builds Vonk builds a protobuf compiler.

use std::path::Path;
use std::{env, fs};

use anyhow::{Context, Result, bail};

fn main() -> Result<()> {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("find crates/proto")?;
    let committed = proto.join("src/generated");
    let scratch = tempfile::tempdir()?;
    let files = protox::compile([proto.join("proto/executor.proto")], [proto.join("proto")])?;
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".")
        .btree_map(".")
        .emit_rerun_if_changed(false)
        .out_dir(scratch.path())
        .compile_fds(files)?;
    let check = env::args().any(|word| word == "--check");
    for entry in fs::read_dir(scratch.path())? {
        let entry = entry?;
        let (new, target) = (fs::read(entry.path())?, committed.join(entry.file_name()));
        if check && fs::read(&target).ok().as_ref() != Some(&new) {
            bail!("{} is stale: run `cargo xtask gen`", target.display());
        }
        if !check {
            fs::write(target, new)?;
        }
    }
    Ok(())
}

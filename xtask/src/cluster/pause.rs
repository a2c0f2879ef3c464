//! What holds a pod's network while its containers come and go?
//!
//! A program that waits, in an image of its own. Kubernetes has one, but only in a registry.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::image::{Entry, Image};
use crate::workspace::output;

pub(crate) const IMAGE: &str = "localhost/vonk-pause:1";

const SOURCE: &str = include_str!("pause.c");

/// Compiles the program, without a library.
pub(crate) fn build(program: &Path) -> Result<()> {
    let source = program.with_extension("c");
    fs::write(&source, SOURCE).with_context(|| format!("write {}", source.display()))?;
    let mut compile = Command::new("cc");
    compile.args(["-static", "-Os", "-s", "-o"]).arg(program).arg(&source);
    output(&mut compile).context("compile the program that holds pods (package libc6-dev has the static libc)")?;
    fs::remove_file(&source).with_context(|| format!("remove {}", source.display()))
}

/// Packs it.
pub(crate) fn image(program: &Path) -> Result<Image> {
    let program = fs::read(program).with_context(|| format!("read {}", program.display()))?;
    Ok(Image::new(IMAGE, &["/pause"]).with(Entry::program("pause", program)))
}

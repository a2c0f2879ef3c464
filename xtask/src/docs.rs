//! Do the documents hold together?

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::workspace::{cargo, command, files, root, run as run_shown};

/// Builds the API documentation, checks the book's links, and builds the book where `mdbook` is installed.
pub(crate) fn run() -> Result<()> {
    links()?;
    run_shown(cargo().args(["doc", "--workspace", "--no-deps", "--locked"]).env("RUSTDOCFLAGS", "-D warnings"))?;
    if command("mdbook").arg("--version").output().is_ok_and(|found| found.status.success()) {
        run_shown(command("mdbook").args(["build", "docs"]))?;
    } else {
        eprintln!("book: not run (mdbook is not installed); its pages read as they are");
    }
    Ok(())
}

/// Every relative link of a page leads to a file, and the book's summary names every page.
pub(crate) fn links() -> Result<()> {
    let mut broken = Vec::new();
    let summary = std::fs::read_to_string(root().join("docs/SUMMARY.md")).context("read docs/SUMMARY.md")?;
    let pages = files("docs", ".md")?;
    let top = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|name| root().join(name));
    for page in pages.iter().chain(&top) {
        let shown = page.strip_prefix(root()).unwrap_or(page).display();
        let text = std::fs::read_to_string(page).with_context(|| format!("read {shown}"))?;
        let folder = page.parent().unwrap_or(Path::new("."));
        for link in relative_links(&text) {
            if !folder.join(link).exists() {
                broken.push(format!("{shown}: {link} leads nowhere"));
            }
        }
    }
    for page in &pages {
        let name = page.strip_prefix(root().join("docs")).unwrap_or(page).display().to_string();
        if name != "SUMMARY.md" && !summary.contains(&format!("({name})")) {
            broken.push(format!("docs/SUMMARY.md does not name {name}"));
        }
    }
    if !broken.is_empty() {
        bail!("documents do not hold together:\n  {}", broken.join("\n  "));
    }
    Ok(())
}

/// Targets of `[text](target)` that are files of ours, without what follows `#`.
fn relative_links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let ours = targets.filter(|target| !target.contains("://") && !target.starts_with('#') && !target.contains(' '));
    ours.map(|target| target.split('#').next().unwrap_or(target)).filter(|target| !target.is_empty())
}

#[cfg(test)]
mod tests {
    use super::relative_links;

    #[test]
    fn only_links_to_files_are_followed() {
        let text = "[a](b.md) [c](https://example.org) [d](#e) [f](g/h.md#i) `x[1](y z)`";
        assert_eq!(relative_links(text).collect::<Vec<_>>(), ["b.md", "g/h.md"]);
    }
}

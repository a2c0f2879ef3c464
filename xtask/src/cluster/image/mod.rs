//! How does a program become an image of the cluster, without a registry and without Docker?

mod archive;
mod dockerfile;
mod linked;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;

pub(crate) use archive::{Entry, Image};

use super::state::State;
use super::{machine, node, up};
use crate::workspace::{cache, cargo, run as run_shown, target_folder};

/// The names of the stock binary in an image: what pods of Vonk start, and what people type.
pub(crate) const NAMES: [&str; 3] = ["vonk", "vonk-executor", "vonk-driver"];

/// Where programs lie in an image; on its path.
const PROGRAMS: &str = "usr/local/bin";

/// The image that users build may be so large, compressed: every node fetches it.
const LARGEST: u64 = 100_000_000;

/// A user that may do nothing, as in docker/Dockerfile. Any other works too: nothing in the image belongs to it.
const USER: &str = "65532:65532";

const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What a program may look for: who it is, and that names are found in files first, then by DNS.
const PASSWD: &str = "root:x:0:0:root:/:/\nnonroot:x:65532:65532:nonroot:/tmp:/\n";
const GROUP: &str = "root:x:0:\nnonroot:x:65532:\n";
const NAME_SERVICES: &str = "passwd: files\ngroup: files\nhosts: files dns\n";

#[derive(Debug, Args)]
pub(crate) struct ImageArgs {
    /// Packs the binary of the release profile.
    #[arg(long)]
    release: bool,
    /// The image's name; it needs a registry part, and pods that use it `imagePullPolicy: IfNotPresent` or `Never`.
    #[arg(long, default_value = "localhost/vonk:dev", value_parser = name_with_registry)]
    tag: String,
    /// Packs this program instead of building the stock binary.
    #[arg(long, conflicts_with = "release")]
    binary: Option<PathBuf>,
    /// The program's names in the image, the first of which is started by default (repeat it).
    #[arg(long = "as", default_values = NAMES)]
    names: Vec<String>,
    /// Builds docker/Dockerfile with buildah and the binary, on a base made of this machine's Debian packages.
    #[arg(long)]
    dockerfile: bool,
    /// Writes the archive here instead of giving it to the nodes.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Packs nothing and gives the nodes this archive, as `buildah push … oci-archive:FILE` and `docker save` write it.
    #[arg(long, conflicts_with_all = ["release", "binary", "output", "dockerfile"])]
    archive: Option<PathBuf>,
}

pub(crate) fn run(args: &ImageArgs) -> Result<()> {
    if let Some(archive) = &args.archive {
        return give_to_nodes(archive, &format!("image --archive {}", archive.display()));
    }
    let program = match &args.binary {
        Some(program) => program.clone(),
        None => build(args.release)?,
    };
    if args.dockerfile {
        return match &args.output {
            Some(archive) => build_dockerfile(&program, &args.tag, archive),
            None => give_as_users_get_it(&program, &args.tag),
        };
    }
    let image = pack(&program, &args.tag, &args.names)?;
    if let Some(archive) = &args.output {
        tell(&args.tag, image.write(archive)?);
        return Ok(());
    }
    give_packed(&image, &program, &args.tag)
}

/// Gives every node the image that docker/Dockerfile makes of the stock binary.
pub(crate) fn give_as_users_get_it(program: &Path, tag: &str) -> Result<()> {
    let folder = tempfile::tempdir_in(cache()?)?;
    let archive = folder.path().join("image.tar");
    build_dockerfile(program, tag, &archive)?;
    give_to_nodes(&archive, &format!("image --dockerfile --tag {tag} --binary {}", program.display()))
}

fn build_dockerfile(program: &Path, tag: &str, archive: &Path) -> Result<()> {
    dockerfile::build(program, tag, archive)?;
    // Its one layer, and a few hundred bytes that describe it.
    let compressed = fs::metadata(archive).with_context(|| format!("read {}", archive.display()))?.len();
    tell(tag, compressed);
    ensure!(compressed <= LARGEST, "{tag} is larger than {} MB: see what docker/files.sh brings", LARGEST / 1_000_000);
    Ok(())
}

/// Gives every node an image of a program.
pub(crate) fn give(program: &Path, tag: &str, names: &[String]) -> Result<()> {
    give_packed(&pack(program, tag, names)?, program, tag)
}

fn give_packed(image: &Image, program: &Path, tag: &str) -> Result<()> {
    let folder = tempfile::tempdir_in(cache()?)?;
    let archive = folder.path().join("image.tar");
    tell(tag, image.write(&archive)?);
    give_to_nodes(&archive, &format!("image --tag {tag} --binary {}", program.display()))
}

fn give_to_nodes(archive: &Path, command: &str) -> Result<()> {
    machine::need_root(command)?;
    let state = State::find()?;
    let up = up::found(&state).context("no cluster is up: `cargo xtask cluster up`, or --output for the archive")?;
    for node in 1..=up.nodes {
        node::import(&state, node, archive)?;
    }
    eprintln!("{} nodes have it", up.nodes);
    Ok(())
}

fn tell(tag: &str, compressed: u64) {
    // Hundredths of megabytes, as registries count them.
    eprintln!("{tag}: {}.{:02} MB compressed", compressed / 1_000_000, compressed / 10_000 % 100);
}

/// The stock binary, built.
fn build(release: bool) -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["build", "--locked", "-p", "vonk", "--features", "sql,k8s", "--bin", "vonk"]);
    run_shown(if release { build.arg("--release") } else { &mut build })?;
    Ok(target_folder()?.join(if release { "release" } else { "debug" }).join("vonk"))
}

/// An image of a program with the libraries that it links, the authorities that it may trust, and nothing else.
pub(crate) fn pack(program: &Path, tag: &str, names: &[String]) -> Result<Image> {
    let read = |file: &Path| fs::read(file).with_context(|| format!("read {}", file.display()));
    let (first, others) = names.split_first().context("a program in an image has a name")?;
    let mut image = Image::new(tag, &[first]).user(USER);
    image = image.with(Entry::folder("tmp", 0o1777)).with(Entry::folder("vonk", 0o755));
    for (file, text) in [("etc/passwd", PASSWD), ("etc/group", GROUP), ("etc/nsswitch.conf", NAME_SERVICES)] {
        image = image.with(Entry::file(file, text.as_bytes().to_vec()));
    }
    image = image.with(Entry::file(CERTIFICATES, read(Path::new(CERTIFICATES))?));
    for library in linked::libraries(program)? {
        let content = read(&library)?;
        image = image.with(Entry::program(library.to_string_lossy(), content));
    }
    image = image.with(Entry::program(format!("{PROGRAMS}/{first}"), read(program)?));
    Ok(others.iter().fold(image, |image, name| image.with(Entry::link(format!("{PROGRAMS}/{name}"), first))))
}

/// containerd takes a name without a registry for one of Docker's.
fn name_with_registry(tag: &str) -> Result<String> {
    let registry = tag.split_once('/').map(|(registry, _)| registry);
    let is_one = registry.is_some_and(|name| name == "localhost" || name.contains(['.', ':']));
    ensure!(is_one, "`{tag}` names no registry: write localhost/{tag}");
    Ok(if tag.rsplit('/').next().is_some_and(|last| last.contains(':')) {
        tag.to_owned()
    } else {
        format!("{tag}:latest")
    })
}

#[cfg(test)]
mod tests {
    use super::{GROUP, NAME_SERVICES, NAMES, PASSWD, PROGRAMS, USER, linked, name_with_registry};

    #[test]
    fn the_image_is_as_docker_builds_it() {
        let (files, docker) =
            (include_str!("../../../../docker/files.sh"), include_str!("../../../../docker/Dockerfile"));
        for text in [PASSWD, GROUP, NAME_SERVICES] {
            let printed = format!("printf '{}'", text.replace('\n', "\\n"));
            assert!(files.contains(&printed), "{printed}");
        }
        for name in linked::COMPANIONS {
            assert!(files.split_whitespace().any(|word| word.trim_end_matches(';') == name), "{name}");
        }
        for link in &NAMES[1..] {
            assert!(files.contains(&format!("ln -s {} \"$image/{PROGRAMS}/{link}\"", NAMES[0])), "{link}");
        }
        assert!(docker.contains(&format!("\nUSER {USER}\n")));
        assert!(docker.contains(&format!("\nENTRYPOINT [\"{}\"]\n", NAMES[0])));
    }

    #[test]
    fn a_name_without_a_registry_is_refused() {
        assert_eq!(name_with_registry("localhost/vonk:dev").unwrap(), "localhost/vonk:dev");
        assert_eq!(name_with_registry("localhost:5000/vonk").unwrap(), "localhost:5000/vonk:latest");
        assert!(name_with_registry("vonk:dev").unwrap_err().to_string().contains("localhost/vonk:dev"));
        assert!(name_with_registry("vonk/vonk:dev").is_err());
    }
}

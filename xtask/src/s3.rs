//! How do tests get a real S3-compatible server?
//!
//! versitygw (Apache-2.0), an ordinary Go module, is built once into the cache folder. It honours what Vonk needs of S3:
//! put-if-absent, ranges, multipart uploads.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;
use serde::{Deserialize, Serialize};

use crate::workspace::{cache, command as workspace_command, output, run as run_shown};

const VERSITYGW: &str = "v1.8.0";

/// The oldest Go that builds it (the `go` line of its go.mod), and the one fetched when there is none as new.
const GO_NEEDED: (u32, u32) = (1, 25);
const GO_FETCHED: &str = "go1.25.5";

/// A gateway listens some 100 ms after it was started; this is time enough for a machine that builds at the same time.
const START_DEADLINE: Duration = Duration::from_secs(30);
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// The name of the file in which the server notes requests.
const REQUESTS: &str = "requests";

const BUCKET: &str = "vonk-test";
const REGION: &str = "us-east-1";
/// The server listens on 127.0.0.1 for as long as a test run, so these keep nothing secret.
const ACCESS_KEY: &str = "vonk-test";
const SECRET_KEY: &str = "vonk-test-secret";

#[derive(Debug, Subcommand)]
pub(crate) enum S3Command {
    /// Builds the server, if that was not done before.
    Build,
    /// Starts it in the background and prints what `eval` needs to point tests at it.
    Start,
    /// Stops the one that `start` started, and removes what it stored.
    Stop,
    /// Runs a command with a server of its own.
    Run {
        /// The command and its arguments.
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<String>,
    },
}

pub(crate) fn run(command: S3Command) -> Result<()> {
    match command {
        S3Command::Build => build().map(|program| println!("{}", program.display())),
        S3Command::Start => start_in_background(),
        S3Command::Stop => stop_in_background(),
        S3Command::Run { command: words } => {
            let server = Server::start()?;
            run_shown(workspace_command(&words[0]).args(&words[1..]).envs(server.environment()))
        }
    }
}

/// A running server with an empty bucket. Dropping it stops it and removes what it stored.
pub(crate) struct Server {
    process: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Server {
    /// Starts one on a free port of this machine alone.
    pub(crate) fn start() -> Result<Self> {
        let program = build()?;
        let folder =
            tempfile::Builder::new().prefix("vonk-s3-").tempdir().context("make a folder for the S3 server")?;
        let (process, port) = spawn(&program, folder.path())?;
        Ok(Self { process, port, folder })
    }

    /// The file in which it notes every request, a line each.
    pub(crate) fn requests(&self) -> PathBuf {
        self.folder.path().join(REQUESTS)
    }

    /// What tests read: endpoint and bucket, and the credentials for them.
    pub(crate) fn environment(&self) -> [(&'static str, String); 3] {
        environment(self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let killed = self.process.kill().and_then(|()| self.process.wait());
        if let Err(error) = killed {
            eprintln!("stop the S3 server: {error}");
        }
    }
}

fn environment(port: u16) -> [(&'static str, String); 3] {
    [
        ("VONK_TEST_S3_URL", format!("http://127.0.0.1:{port}/{BUCKET}")),
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
    ]
}

/// Starts the program and waits until it listens. Metadata goes to files beside the objects, since not every temporary
/// folder keeps extended attributes.
fn spawn(program: &Path, folder: &Path) -> Result<(Child, u16)> {
    let (objects, metadata) = (folder.join("objects"), folder.join("metadata"));
    fs::create_dir_all(objects.join(BUCKET)).context("make a bucket")?;
    fs::create_dir_all(&metadata).context("make a folder for metadata")?;
    let log = fs::File::create(folder.join("log")).context("make the S3 server's log")?;
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?.local_addr()?.port();
    let mut process = Command::new(program)
        .args(["--quiet", "--region", REGION, "--port", &format!("127.0.0.1:{port}"), "--access-log"])
        .arg(folder.join(REQUESTS))
        .arg("posix")
        .arg("--sidecar")
        .args([&metadata, &objects])
        .env("ROOT_ACCESS_KEY", ACCESS_KEY)
        .env("ROOT_SECRET_KEY", SECRET_KEY)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    let began = Instant::now();
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        let ended = process.try_wait()?;
        if ended.is_some() || began.elapsed() > START_DEADLINE {
            process.kill().ok();
            let said = fs::read_to_string(folder.join("log")).unwrap_or_default();
            bail!("the S3 server does not listen on port {port} ({ended:?} after {:?}): {said}", began.elapsed());
        }
        std::thread::park_timeout(LOOK_AGAIN_AFTER);
    }
    Ok((process, port))
}

/// What `start` leaves for `stop`.
#[derive(Serialize, Deserialize)]
struct Background {
    pid: u32,
    port: u16,
    folder: PathBuf,
}

fn note() -> Result<PathBuf> {
    Ok(cache()?.join("s3.json"))
}

fn start_in_background() -> Result<()> {
    let note = note()?;
    ensure!(!note.exists(), "an S3 server was started before: `cargo xtask s3 stop` ({})", note.display());
    let program = build()?;
    let folder = tempfile::Builder::new().prefix("vonk-s3-").tempdir()?.keep();
    let (process, port) = spawn(&program, &folder)?;
    fs::write(&note, serde_json::to_string(&Background { pid: process.id(), port, folder })?)?;
    for (name, value) in environment(port) {
        println!("export {name}='{value}'");
    }
    Ok(())
}

fn stop_in_background() -> Result<()> {
    let note = note()?;
    let text = fs::read_to_string(&note).context("no S3 server was started by `cargo xtask s3 start`")?;
    let background: Background = serde_json::from_str(&text)?;
    fs::remove_file(&note)?;
    // The number may have passed to another process since: only a gateway with this folder is ended.
    let ours = fs::read(format!("/proc/{}/cmdline", background.pid)).unwrap_or_default();
    if String::from_utf8_lossy(&ours).contains(&*background.folder.to_string_lossy()) {
        run_shown(Command::new("kill").arg(background.pid.to_string()))?;
    }
    fs::remove_dir_all(&background.folder).context("remove what the S3 server stored")
}

/// The server's program, built if it is not there yet.
fn build() -> Result<PathBuf> {
    let bin = cache()?.join("bin");
    let program = bin.join(format!("versitygw-{VERSITYGW}"));
    if program.exists() {
        return Ok(program);
    }
    fs::create_dir_all(&bin).with_context(|| format!("make {}", bin.display()))?;
    let go = go()?;
    // Built beside the folder and moved there, so that a build that was stopped leaves nothing half done.
    let built = tempfile::tempdir_in(&bin)?;
    run_shown(
        Command::new(&go)
            .args(["install", "-trimpath", "-ldflags=-s -w"])
            .arg(format!("github.com/versity/versitygw/cmd/versitygw@{VERSITYGW}"))
            .env("GOBIN", built.path())
            .env("CGO_ENABLED", "0")
            .env("GOTOOLCHAIN", "local")
            .env("GOFLAGS", "-buildvcs=false"),
    )
    .context("build the S3 server that tests use")?;
    fs::rename(built.path().join("versitygw"), &program)?;
    Ok(program)
}

/// A Go that is new enough: the one on the path, else one from the module proxy, as a Go of 1.21 would fetch it.
fn go() -> Result<PathBuf> {
    let installed = output(Command::new("go").args(["env", "GOVERSION"])).ok();
    let installed = installed.map(|version| String::from_utf8_lossy(&version).trim().to_owned());
    if installed.as_deref().and_then(go_version).is_some_and(|version| version >= GO_NEEDED) {
        return Ok("go".into());
    }
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("install Go {}.{} or newer: none can be fetched for {other}", GO_NEEDED.0, GO_NEEDED.1),
    };
    let version = format!("v0.0.1-{GO_FETCHED}.linux-{arch}");
    let folder = cache()?.join(format!("golang.org/toolchain@{version}"));
    let go = folder.join("bin/go");
    if go.exists() {
        return Ok(go);
    }
    let found = installed.unwrap_or_else(|| "no Go".to_owned());
    eprintln!("{found} on this machine, {}.{} or newer is needed: fetching {GO_FETCHED}", GO_NEEDED.0, GO_NEEDED.1);
    let proxy = std::env::var("GOPROXY").unwrap_or_default();
    let proxy = proxy.split([',', '|']).find(|proxy| proxy.starts_with("http")).unwrap_or("https://proxy.golang.org");
    let url = format!("{}/golang.org/toolchain/@v/{version}.zip", proxy.trim_end_matches('/'));
    let unpacked = tempfile::tempdir_in(fs::canonicalize(cache()?)?)?;
    let archive = unpacked.path().join("go.zip");
    run_shown(Command::new("curl").args(["-fsSL", "--retry", "3", "-o"]).arg(&archive).arg(&url))
        .with_context(|| format!("fetch Go (or install {}.{} or newer)", GO_NEEDED.0, GO_NEEDED.1))?;
    run_shown(Command::new("unzip").arg("-q").arg(&archive).arg("-d").arg(unpacked.path()))?;
    let module = unpacked.path().join(format!("golang.org/toolchain@{version}"));
    // The archive of a module carries no file modes.
    for tools in ["bin", "pkg/tool"] {
        run_shown(Command::new("chmod").args(["-R", "+x"]).arg(module.join(tools)))?;
    }
    fs::create_dir_all(folder.parent().expect("it was joined to one"))?;
    fs::rename(&module, &folder)?;
    Ok(go)
}

/// `go1.25.5` is (1, 25).
fn go_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.strip_prefix("go")?.split(['.', '-', 'r', 'b', ' ']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::go_version;

    #[test]
    fn go_versions_compare_as_numbers() {
        assert_eq!(go_version("go1.25.5"), Some((1, 25)));
        assert_eq!(go_version("go1.26rc1"), Some((1, 26)));
        assert!(go_version("go1.9") < go_version("go1.25"));
        assert_eq!(go_version("devel"), None);
    }
}

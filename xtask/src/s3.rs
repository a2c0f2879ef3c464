//! How do tests get a real S3-compatible server?
//!
//! versitygw (Apache-2.0), an ordinary Go module, is built once into the cache folder. It honours what Vonk needs of S3:
//! put-if-absent, ranges, multipart uploads.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;
use serde::{Deserialize, Serialize};

use crate::go;
use crate::workspace::{cache, command as workspace_command, run as run_shown};

const VERSITYGW: &str = "v1.8.0";

/// A gateway listens some 100 ms after it was started; this is time enough for a machine that builds at the same time.
const START_DEADLINE: Duration = Duration::from_secs(30);
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// The name of the file in which the server notes requests.
const REQUESTS: &str = "requests";

const BUCKET: &str = "vonk-test";
const REGION: &str = "us-east-1";
/// The server listens for this machine alone and holds what tests wrote, so these keep nothing secret.
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
        environment(local(self.port))
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

/// What tests read to find a server that listens there.
pub(crate) fn environment(address: SocketAddrV4) -> [(&'static str, String); 3] {
    [
        ("VONK_TEST_S3_URL", format!("http://{address}/{BUCKET}")),
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
    ]
}

fn local(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
}

/// Makes a server's folders and an empty bucket, and adds to the command that starts its program what it has to be told.
/// Metadata goes to files beside the objects, since not every temporary folder keeps extended attributes.
pub(crate) fn prepare(server: &mut Command, address: SocketAddrV4, folder: &Path) -> Result<()> {
    let (objects, metadata) = (folder.join("objects"), folder.join("metadata"));
    fs::create_dir_all(objects.join(BUCKET)).context("make a bucket")?;
    fs::create_dir_all(&metadata).context("make a folder for metadata")?;
    server
        .args(["--quiet", "--region", REGION, "--port", &address.to_string(), "--access-log"])
        .arg(folder.join(REQUESTS))
        .arg("posix")
        .arg("--sidecar")
        .args([&metadata, &objects])
        .env("ROOT_ACCESS_KEY", ACCESS_KEY)
        .env("ROOT_SECRET_KEY", SECRET_KEY);
    Ok(())
}

/// Starts the program on this machine alone and waits until it listens.
fn spawn(program: &Path, folder: &Path) -> Result<(Child, u16)> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?.local_addr()?.port();
    let mut server = Command::new(program);
    prepare(&mut server, local(port), folder)?;
    let log = fs::File::create(folder.join("log")).context("make the S3 server's log")?;
    let mut process = server
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
    for (name, value) in environment(local(port)) {
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
pub(crate) fn build() -> Result<PathBuf> {
    let program = cache()?.join("bin").join(format!("versitygw-{VERSITYGW}"));
    if !program.exists() {
        go::install("github.com/versity/versitygw/cmd/versitygw", VERSITYGW, &program)
            .context("build the S3 server that tests use")?;
    }
    Ok(program)
}

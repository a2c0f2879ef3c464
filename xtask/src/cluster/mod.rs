//! How does one machine become a Kubernetes cluster?
//!
//! Nodes are containerd, kubelet and a bridge for pods each; the control plane, they and an S3-compatible server live in a
//! network namespace of their own. No registry, no Docker engine, and nothing of the machine's network is changed. From
//! outside the API server and the S3 server are reached, pods are not, as with a cluster far away.

mod binaries;
mod cgroups;
mod chart;
mod control_plane;
mod down;
mod image;
mod logs;
mod machine;
mod network;
mod node;
mod packages;
mod pause;
mod pki;
mod processes;
mod settings;
mod state;
mod test;
mod up;

use anyhow::Result;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Builds what a cluster consists of, and installs the Debian packages it needs, if that was not done before.
    Build(binaries::BuildArgs),
    /// Starts a cluster and prints what `eval` needs to point `kubectl`, Vonk and its tests at it.
    Up(up::UpArgs),
    /// Runs a command with a cluster: the one that KUBECONFIG and VONK_TEST_S3_URL name, else this machine's.
    Run {
        /// The command and its arguments.
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<String>,
    },
    /// Runs Vonk's end-to-end tests with a cluster, which stays up.
    Test(test::TestArgs),
    /// Stops it and removes everything that it made.
    Down,
    /// Packs the stock binary into an image, as docker/Dockerfile does, and gives it to every node that is up.
    Image(image::ImageArgs),
    /// Says what runs.
    Status,
    /// Shows the end of what a part of the cluster printed; without a name, which parts there are.
    Logs(logs::LogsArgs),
    /// Checks charts/vonk with helm, and renders the plain manifests in deploy/ from it.
    Chart(chart::ChartArgs),
}

pub(crate) fn run(command: ClusterCommand) -> Result<()> {
    let changes = matches!(
        command,
        ClusterCommand::Build(_) | ClusterCommand::Up(_) | ClusterCommand::Down | ClusterCommand::Chart(_)
    );
    let _alone = if changes { Some(state::alone()?) } else { None };
    match command {
        ClusterCommand::Build(args) => binaries::build(&args),
        ClusterCommand::Up(args) => up::up(&args),
        ClusterCommand::Run { command } => up::with_cluster(&command),
        ClusterCommand::Test(args) => test::run(&args),
        ClusterCommand::Down => down::down(),
        ClusterCommand::Image(args) => image::run(&args),
        ClusterCommand::Chart(args) => chart::run(&args),
        ClusterCommand::Logs(args) => logs::run(&args),
        ClusterCommand::Status => up::status(),
    }
}

//! Which flags of spark-submit have no meaning here, and what to do instead?

use super::Usage;

/// Flags that are known only to be refused with advice.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(id = "vonk::Spark")]
pub(crate) struct Spark {
    #[arg(long, hide = true, value_name = "X")]
    class: Option<String>,
    #[arg(long, hide = true, value_name = "X")]
    jars: Option<String>,
    #[arg(long, hide = true, value_name = "X")]
    packages: Option<String>,
    #[arg(long, hide = true, value_name = "X")]
    exclude_packages: Option<String>,
    #[arg(long, hide = true, value_name = "X")]
    repositories: Option<String>,
    #[arg(long, hide = true, value_name = "X", allow_hyphen_values = true)]
    driver_java_options: Option<String>,
    #[arg(long, hide = true, value_name = "X")]
    driver_library_path: Option<String>,
    #[arg(long, hide = true, value_name = "X")]
    driver_class_path: Option<String>,
    #[arg(long, hide = true, value_name = "X")]
    keytab: Option<String>,
    #[arg(long, hide = true, value_name = "X")]
    principal: Option<String>,
    #[arg(long, hide = true, value_name = "X")]
    proxy_user: Option<String>,
    #[arg(long, hide = true, value_name = "X")]
    total_executor_cores: Option<String>,
    #[arg(long, hide = true)]
    supervise: bool,
    #[arg(long, hide = true, value_name = "X")]
    py_files: Option<String>,
}

const NO_JVM: &str = "there is no JVM: a program is one executable with all its code";
const NO_PYTHON: &str = "there are no Python programs yet; files of another kind go along with --files and --archives";

impl Spark {
    /// Refuses those that were given.
    ///
    /// # Errors
    /// One was.
    pub(crate) fn check(&self) -> Result<(), Usage> {
        let kerberos = "there is no Kerberos: name a service account with k8s.driver.service_account and k8s.executor.service_account, and give it the cloud's identity";
        let flags = [
            ("--class", self.class.is_some(), NO_JVM),
            ("--jars", self.jars.is_some(), NO_JVM),
            ("--packages", self.packages.is_some(), NO_JVM),
            ("--exclude-packages", self.exclude_packages.is_some(), NO_JVM),
            ("--repositories", self.repositories.is_some(), NO_JVM),
            ("--driver-java-options", self.driver_java_options.is_some(), NO_JVM),
            ("--driver-class-path", self.driver_class_path.is_some(), NO_JVM),
            (
                "--driver-library-path",
                self.driver_library_path.is_some(),
                "libraries come with the image: see docs/images.md",
            ),
            ("--keytab", self.keytab.is_some(), kerberos),
            ("--principal", self.principal.is_some(), kerberos),
            (
                "--proxy-user",
                self.proxy_user.is_some(),
                "who submits is who the kubeconfig says: use a context of that user",
            ),
            ("--total-executor-cores", self.total_executor_cores.is_some(), "say --num-executors and --executor-cores"),
            ("--supervise", self.supervise, "say how often the driver may begin anew: --driver-restarts N"),
            ("--py-files", self.py_files.is_some(), NO_PYTHON),
        ];
        match flags.into_iter().find(|(_, given, _)| *given) {
            Some((flag, _, advice)) => Err(Usage(format!("use {flag}: {advice}"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_says_what_to_do() {
        assert_eq!(Spark::default().check(), Ok(()));
        let given = Spark { supervise: true, ..Spark::default() };
        let error = given.check().unwrap_err().to_string();
        assert_eq!(error, "use --supervise: say how often the driver may begin anew: --driver-restarts N");
        let given = Spark { class: Some("a.B".into()), ..Spark::default() };
        assert!(given.check().unwrap_err().to_string().contains("no JVM"));
    }
}

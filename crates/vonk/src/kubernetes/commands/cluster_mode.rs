//! How does an application run whose driver is a pod?

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use anyhow::Context;
use k8s_backend::access::Cluster;
use k8s_backend::backend::ExecutorSettings;
use k8s_backend::config as keys;
use k8s_backend::driver::End;
use k8s_backend::follow::{Followed, Heard, follow};
use k8s_backend::job::DriverJob;
use k8s_backend::manifest::document;
use k8s_backend::names::{self, Role};
use k8s_backend::pod::{AppPods, ExecutorPods};
use k8s_backend::preflight::nobody;
use k8s_backend::submit::{Submission, Submitted, attached, end, is_remembered, manifests, submit, try_out};
use k8s_backend::sweep::{BESIDE, STALE_AFTER, Sweep, sweep};
use k8s_backend::template::weakens_restricted;
use model::exit;
use model::{AppId, Epoch};
use serde_json::json;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::connection::connect;
use super::output::{Format, bytes, json as print_json, line};
use super::signals::{Received, Signals};
use super::store::{self, Store};
use super::submit::{DryRun, OnSignal, Order, Program};
use super::{Usage, history, shipped, upload};
use crate::attached::listed;
use crate::config::{Config, LOG};
use crate::kubernetes::program::Image;
use crate::kubernetes::sent;

/// A driver that was told to end has 30 s for it; a little more for the news of it.
const STOPPED_WITHIN: Duration = Duration::from_secs(35);

/// Whoever submits tidies up a little beside.
const TIDY: Sweep = Sweep { older_than: STALE_AFTER, most: BESIDE, jobs: true };

/// Who does not stay takes no longer for it.
const TIDIED_WITHIN: Duration = Duration::from_secs(5);

/// Where a file with SQL is in the driver's pod.
const SQL: &str = "program.sql";

/// Where images have the command: a script needs no other program.
const COMMAND: &str = "/usr/local/bin/vonk";

/// Submits, and stays until the end unless told otherwise. Gives the exit code.
///
/// # Errors
/// It cannot be submitted.
pub(crate) async fn run(order: Order) -> Result<u8, anyhow::Error> {
    let mut signals = Signals::new()?;
    // Until it is submitted, nothing is made that a signal would leave behind.
    let (cluster, store, known) = match signals.before(Box::pin(begin(&order))).await {
        Ok(begun) => match begun? {
            Begun::Tried => return Ok(exit::DONE),
            Begun::Goes { cluster, store, known } => (cluster, store, known),
        },
        Err(received) => return Ok(received.code),
    };
    let (submitted, received) = match known {
        Some(Known::Runs(submitted)) => (submitted, None),
        Some(Known::Past(past)) => {
            let (app, code) = (past.app.clone(), past.code());
            say_submitted(&order, &app, cluster.namespace(), true);
            return Ok(ended(&order, &app, &End::new(code, past.end.flatten().unwrap_or_default())));
        }
        None => match Box::pin(make(&cluster, &store, &order, &mut signals)).await? {
            Made::Submitted(submitted, received) => (submitted, received),
            Made::Nothing(received) => return Ok(received.code),
        },
    };
    say_submitted(&order, &submitted.app, &submitted.namespace, submitted.attached);
    match received {
        Some(received) => leave(&cluster, &order, &submitted, &mut signals, received, None).await,
        None if order.detach => {
            // Whoever submits tidies up a little.
            let tidied = timeout(TIDIED_WITHIN, Box::pin(sweep(&cluster, TIDY)));
            if let Ok(Ok(Err(error))) = signals.before(tidied).await {
                tracing::debug!(error = &error as &dyn std::error::Error, "sweep");
            }
            Ok(exit::DONE)
        }
        None => Box::pin(stay(&cluster, &store, &order, &submitted, &mut signals)).await,
    }
}

/// What comes before an application is made.
enum Begun {
    /// It was to be tried only.
    Tried,
    /// It may be made, unless it is there.
    Goes { cluster: Cluster, store: Store, known: Option<Known> },
}

async fn begin(order: &Order) -> Result<Begun, anyhow::Error> {
    // Before anybody is asked.
    store::shared_url(&order.config)?;
    let cluster = connect(&order.config).await?;
    if order.dry_run.is_some() {
        Box::pin(dry_run(&cluster, order)).await?;
        return Ok(Begun::Tried);
    }
    let store = store::open(&order.config)?;
    let known = known(&cluster, &store, order).await?;
    Ok(Begun::Goes { cluster, store, known })
}

/// An application that was submitted before with the same key.
enum Known {
    /// Its root is there.
    Runs(Submitted),
    /// Only history is left of it.
    Past(Box<history::Past>),
}

async fn known(cluster: &Cluster, store: &Store, order: &Order) -> Result<Option<Known>, anyhow::Error> {
    let Some(key) = &order.key else { return Ok(None) };
    if let Some(submitted) = attached(cluster, key).await? {
        return Ok(Some(Known::Runs(submitted)));
    }
    if is_remembered(cluster, key).await? {
        return Ok(None);
    }
    let root = first_root(cluster, key);
    // One that has failed is followed by another try.
    let past = history::submitted(store, &root).await?.filter(|past| past.code() == exit::DONE);
    Ok(past.map(|past| Known::Past(Box::new(past))))
}

/// Under its first root's name, the latest application with a key is noted.
fn first_root(cluster: &Cluster, key: &str) -> String {
    names::keyed_root(cluster.namespace(), key, 1)
}

/// What becomes of making an application.
enum Made {
    /// It is there; a signal may have come meanwhile.
    Submitted(Submitted, Option<Received>),
    /// A signal came, and what was made is removed, or is swept later.
    Nothing(Received),
}

/// Uploads the program and makes the application, unless a signal comes first.
async fn make(cluster: &Cluster, store: &Store, order: &Order, signals: &mut Signals) -> Result<Made, anyhow::Error> {
    let submission = match signals.before(submission(cluster, Some(store), order, AppId::generate())).await {
        Ok(submission) => submission?,
        Err(received) => return Ok(Made::Nothing(received)),
    };
    warn_of_weakened(order, &submission)?;
    let stop = CancellationToken::new();
    let mut making = std::pin::pin!(submit(cluster, submission, &stop));
    let (submitted, mut received) = match signals.before(&mut making).await {
        Ok(made) => (made?, None),
        Err(received) => {
            eprintln!("{}: removing what was made; once more leaves at once", received.word);
            stop.cancel();
            match signals.before(&mut making).await {
                Ok(Ok(submitted)) => (submitted, Some(received)),
                // It was removed, or cannot be made anyway.
                Ok(Err(_)) | Err(_) => return Ok(Made::Nothing(received)),
            }
        }
    };
    // Without the note the key is forgotten with its Job, an hour after its end.
    if let Some(key) = order.key.as_ref().filter(|_| !submitted.attached) {
        match signals.before(history::note(store, &first_root(cluster, key), &submitted.app)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "note the idempotency key");
            }
            Err(later) => received = received.or(Some(later)),
        }
    }
    Ok(Made::Submitted(submitted, received))
}

/// Stays with it until its end, or until a signal.
async fn stay(
    cluster: &Cluster,
    store: &Store,
    order: &Order,
    submitted: &Submitted,
    signals: &mut Signals,
) -> Result<u8, anyhow::Error> {
    let app: AppId = submitted.app.parse().context("read the application's id")?;
    let room_within = driver::config::NO_EXECUTOR_TIMEOUT.duration(order.config.values())?;
    let followed = Followed { cluster: cluster.clone(), app, root: submitted.root.clone(), room_within };
    let output = order.output;
    let mut heard = move |heard| say(output, heard);
    let mut following = std::pin::pin!(follow(&followed, &mut heard));
    // Beside: whoever submits tidies up a little.
    let mut tidying = std::pin::pin!(sweep(cluster, TIDY));
    let mut tidied = false;
    let received = loop {
        tokio::select! {
            end = &mut following => {
                // A driver that was killed with its whole pod could not say so itself.
                if end.told && end.code != exit::DONE {
                    let why = Some(end.why.clone());
                    driver::standing::note_end_if_unknown(&*store.objects, &store.root, app, end.code.into(), why).await;
                }
                return Ok(ended(order, &submitted.app, &end));
            }
            swept = &mut tidying, if !tidied => {
                tidied = true;
                if let Err(error) = swept {
                    tracing::debug!(error = &error as &dyn std::error::Error, "sweep");
                }
            }
            received = signals.next() => break received,
        }
    };
    leave(cluster, order, submitted, signals, received, Some(following)).await
}

/// Leaves an application after a signal: it ends, or goes on. Another signal leaves at once.
async fn leave(
    cluster: &Cluster,
    order: &Order,
    submitted: &Submitted,
    signals: &mut Signals,
    received: Received,
    following: Option<Pin<&mut (dyn Future<Output = End> + Send)>>,
) -> Result<u8, anyhow::Error> {
    let app = &submitted.app;
    if order.on_signal == OnSignal::Detach {
        let word = received.word;
        eprintln!("{word}: the application goes on; `vonk logs -f {app}` shows it, `vonk kill {app}` ends it");
        return Ok(received.code);
    }
    eprintln!("{}: ending the application; once more leaves at once", received.word);
    let ending = async {
        end(cluster, submitted).await.with_context(|| format!("end the application {app}; try `vonk kill {app}`"))?;
        if let Some(following) = following
            && timeout(STOPPED_WITHIN, following).await.is_err()
        {
            eprintln!("its pods have not ended yet; they will");
        }
        Ok::<_, anyhow::Error>(())
    };
    match signals.before(ending).await {
        Ok(ended) => ended.map(|()| received.code),
        Err(_) => Ok(received.code),
    }
}

fn say_submitted(order: &Order, app: &str, namespace: &str, attached: bool) {
    match order.output {
        Format::Text => {
            line(app);
            if attached {
                eprintln!("attached: it was submitted before with the same idempotency key");
            }
        }
        Format::Json => print_json(&json!({
            "event": "submitted", "app": app, "name": order.name, "namespace": namespace, "attached": attached,
        })),
    }
}

fn say(output: Format, heard: Heard) {
    match (output, heard) {
        (Format::Text, Heard::Line(line)) => bytes(&line),
        (Format::Text, Heard::Said(text)) => eprintln!("{text}"),
        (Format::Json, Heard::Line(line)) => {
            let text = String::from_utf8_lossy(&line);
            print_json(&json!({ "event": "line", "text": text.strip_suffix('\n').unwrap_or(&text) }));
        }
        (Format::Json, Heard::Said(text)) => print_json(&json!({ "event": "said", "text": text })),
    }
}

fn ended(order: &Order, app: &str, end: &End) -> u8 {
    match order.output {
        Format::Json => print_json(&json!({ "event": "ended", "app": app, "exit_code": end.code, "why": end.why })),
        Format::Text if end.code != exit::DONE => eprintln!("error: {}", end.why),
        Format::Text => {}
    }
    end.code
}

/// Settings and templates may make pods that the Pod Security Standard `restricted` forbids: that is the user's to decide.
fn warn_of_weakened(order: &Order, submission: &Submission) -> Result<(), anyhow::Error> {
    let pod = &submission.job.pod;
    let executors = executor_pods(&order.config, pod.of.clone(), &pod.root)?;
    for (who, pod) in [("the driver", pod.pod()), ("executors", executors.pod(1, &Default::default()))] {
        let weak = weakens_restricted(&pod);
        if !weak.is_empty() {
            eprintln!("warning: pods of {who} would not pass `restricted`: {}", weak.join(", "));
        }
    }
    Ok(())
}

async fn dry_run(cluster: &Cluster, order: &Order) -> Result<(), anyhow::Error> {
    let app = AppId::generate();
    let submission = submission(cluster, None, order, app).await?;
    warn_of_weakened(order, &submission)?;
    let pod = &submission.job.pod;
    let executors = executor_pods(&order.config, pod.of.clone(), &pod.root)?;
    match order.dry_run {
        Some(DryRun::Server) => {
            try_out(cluster, &submission).await?;
            eprintln!("the API server would create it");
        }
        _ => line(&format!(
            "{}---\n# The driver makes executors like this one.\n{}",
            manifests(&submission)?,
            document(&executors.pod(1, &Default::default())).trim_end()
        )),
    }
    Ok(())
}

/// Everything that is submitted. Without a store, nothing is uploaded.
async fn submission(
    cluster: &Cluster,
    store: Option<&Store>,
    order: &Order,
    app: AppId,
) -> Result<Submission, anyhow::Error> {
    let mut files: BTreeMap<String, String> = shipped::files(&order.config, cluster.namespace(), &order.name)?;
    let mut of = app_pods(&order.config, app, &order.name, store::shared_url(&order.config)?);
    let mut args = order.args.clone();
    let path = match &order.program {
        Program::Executable(path) => Some(path.clone()),
        Program::Sql(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| anyhow::Error::new(error).context(Usage(format!("run {}", path.display()))))?;
            files.insert(SQL.to_owned(), text);
            args.splice(0..0, ["sql".to_owned(), "--file".to_owned(), format!("{}/{SQL}", shipped::FOLDER)]);
            of.program = Some(format!("{}{COMMAND}", names::IN_IMAGE));
            None
        }
        Program::InImage(path) => {
            of.program = Some(format!("{}{path}", names::IN_IMAGE));
            None
        }
        Program::Stored { url, .. } => return Err(Usage(format!("run {url}: it was not brought here")).into()),
    };
    match path {
        Some(path) => {
            let uploaded = upload::program(&order.config, store, &path).await?;
            (of.program, of.architecture) = (Some(uploaded.hash), Some(uploaded.architecture));
        }
        // What is in the image runs wherever the image does.
        None => of.architecture = Image::read(order.config.values())?.only_for().map(str::to_owned),
    }
    let attached = listed(order.config.values()).map_err(sent::Error::from)?;
    of.attached = sent::send(store.map(|store| (&store.objects, &store.root)), &attached).await?;
    let mut job = DriverJob::read(of, order.config.values(), args)?;
    job.pod.timeout = order.timeout;
    Ok(Submission { job, config: files, key: order.key.clone() })
}

/// What driver and executors have in common, without a program.
pub(crate) fn app_pods(config: &Config, app: AppId, name: &str, store: String) -> AppPods {
    AppPods {
        app,
        name: name.to_owned(),
        image: keys::IMAGE.value(config.values()).to_owned(),
        program: None,
        attached: String::new(),
        architecture: None,
        store,
        log: Some(LOG.value(config.values()).to_owned()).filter(|log| !log.is_empty()),
    }
}

/// Executors as their driver will make them, owned by a root that need not exist.
pub(crate) fn executor_pods(config: &Config, of: AppPods, root: &str) -> Result<ExecutorPods, anyhow::Error> {
    let values = config.values();
    let settings = ExecutorSettings::read(values)?;
    Ok(ExecutorPods {
        of,
        epoch: Epoch(1),
        owner: nobody(root),
        cores: settings.cores,
        memory: executor::config::MEMORY.bytes(values)?,
        disk: settings.disk,
        tls_secret: names::files(root, Role::Executor),
        template: settings.template,
        settings: settings.pods,
    })
}

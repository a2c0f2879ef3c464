//! Does the same executor serve behind mutually authenticated gRPC?

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use executor::lifetime::End;
use executor::start::{Birth, Incoming, Outgoing, serve_on};
use futures::{SinkExt, StreamExt};
use hyper_util::rt::TokioIo;
use model::backend::ConnectionClosed;
use model::messages::*;
use model::{Epoch, ExecutorId};
use proto::executor_client::ExecutorClient;
use proto::tls::{Authority, Identity, Role, client_config, executor_name};
use proto::{MESSAGE_MAX, convert, generated as wire};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::PollSender;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::fake::*;

/// An executor behind a socket, and the driver's means to reach it.
struct Remote {
    address: SocketAddr,
    driver: Identity,
    words: Arc<Words>,
    ended: JoinSet<End>,
    _folder: tempfile::TempDir,
    store: String,
}

async fn remote(change: impl FnOnce(&mut Birth)) -> Remote {
    let authority = Authority::new(APP).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut birth = Birth::new(
        authority.issue(Role::Executor).unwrap(),
        (APP, Epoch(1), ExecutorId(3)),
        "abc".into(),
        folder.path().join("disk"),
        &model::setting::Values::new(),
    )
    .unwrap();
    change(&mut birth);
    let listener = TcpListener::bind(birth.listen).await.unwrap();
    let address = listener.local_addr().unwrap();
    let words = Arc::new(Words::default());
    let mut ended = JoinSet::new();
    ended.spawn(serve_on(listener, &birth, words.clone(), Handle::current()).unwrap());
    let root = folder.path().join("store");
    std::fs::create_dir(&root).unwrap();
    let store = format!("file://{}", root.display());
    Remote { address, driver: authority.issue(Role::Driver).unwrap(), words, ended, _folder: folder, store }
}

impl Remote {
    fn hello(&self) -> Hello {
        Hello { store: self.store.clone(), ..hello() }
    }

    async fn channel(&self, driver: &Identity) -> Result<Channel, tonic::transport::Error> {
        let tls = TlsConnector::from(Arc::new(client_config(driver, APP).unwrap()));
        let address = self.address;
        let dial = service_fn(move |_| {
            let tls = tls.clone();
            async move {
                let socket = TcpStream::connect(address).await?;
                socket.set_nodelay(true)?;
                Ok::<_, io::Error>(TokioIo::new(tls.connect(executor_name(APP), socket).await?))
            }
        });
        Endpoint::from_static("http://executor").connect_with_connector(dial).await
    }

    /// A stream to the executor, of raw messages.
    async fn stream(&self) -> (mpsc::Sender<wire::ToExecutor>, tonic::Streaming<wire::FromExecutor>) {
        let channel = self.channel(&self.driver).await.unwrap();
        let mut client = ExecutorClient::new(channel).max_decoding_message_size(MESSAGE_MAX);
        let (say, said) = mpsc::channel(64);
        let heard = client.run(ReceiverStream::new(said)).await.unwrap().into_inner();
        (say, heard)
    }

    async fn dial(&self) -> Driver {
        let (say, mut heard) = self.stream().await;
        let outgoing: Outgoing = Box::pin(
            PollSender::new(say)
                .sink_map_err(|_| ConnectionClosed)
                .with_flat_map(|message| futures::stream::iter(convert::pieces_to(message).unwrap()).map(Ok)),
        );
        let (forward, incoming) = mpsc::channel(64);
        let mut reading = JoinSet::new();
        let reader = reading.spawn(async move {
            while let Ok(Some(message)) = heard.message().await {
                if forward.send(FromExecutor::try_from(message).unwrap()).await.is_err() {
                    return;
                }
            }
        });
        let incoming: Incoming = Box::pin(Owned { stream: ReceiverStream::new(incoming), reader, _owner: reading });
        Driver::new(outgoing, incoming)
    }

    async fn greeted(&self) -> Driver {
        let mut driver = self.dial().await;
        driver.hello(self.hello()).await.unwrap();
        driver
    }

    async fn end(&mut self) -> End {
        timeout(SOON, self.ended.join_next()).await.expect("an end").unwrap().unwrap()
    }
}

/// A stream that ends the task which feeds it.
struct Owned {
    stream: ReceiverStream<FromExecutor>,
    reader: AbortHandle,
    _owner: JoinSet<()>,
}

impl futures::Stream for Owned {
    type Item = FromExecutor;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<FromExecutor>> {
        self.stream.poll_next_unpin(cx)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

#[tokio::test]
async fn tasks_run_behind_tls_and_a_drained_executor_ends_in_order() {
    let mut remote = remote(|_| {}).await;
    let mut driver = remote.greeted().await;
    driver.say(body(1, "echo")).await;
    driver.say(body(2, "megabytes")).await;
    driver.say(body(3, "panic")).await;
    let mut tasks: Vec<_> = (0..100).map(|p| task(1, p)).collect();
    tasks.extend([task(2, 0), task(3, 0)]);
    driver.say(ToExecutor::Launch(tasks)).await;
    for p in 0..100 {
        assert!(driver.success(attempt(1, p)).await.result.is_some());
    }
    assert!(matches!(driver.success(attempt(2, 0)).await.result, Some(Payload::Stored { .. })));
    assert!(driver.failure(attempt(3, 0)).await.to_string().contains("row 17 is bad"));
    driver.say(ToExecutor::Drain { grace: SOON }).await;
    driver.hear_all().await;
    assert!(driver.drained);
    assert_eq!(remote.end().await, End::Drained);
}

#[tokio::test]
async fn a_driver_that_comes_back_hears_what_is_held_and_what_it_missed() {
    let remote = remote(|_| {}).await;
    let mut first = remote.greeted().await;
    first.acknowledges = false;
    first.say(body(1, "door")).await;
    first.say(ToExecutor::Launch((0..3).map(|p| task(1, p)).collect())).await;
    remote.words.doors.open([0]);
    first.success(attempt(1, 0)).await;
    first.until(|driver| driver.started.contains(&attempt(1, 2))).await;
    drop(first);

    let mut second = remote.dial().await;
    let mut holding = second.hello(remote.hello()).await.unwrap().holding;
    holding.sort();
    assert_eq!(holding, [0, 1, 2].map(|p| attempt(1, p)));
    second.success(attempt(1, 0)).await;
    second.until(|driver| driver.started.len() == 2).await;
    second.started.sort();
    assert_eq!(second.started, [attempt(1, 1), attempt(1, 2)]);
    remote.words.doors.open([1, 2]);
    second.success(attempt(1, 1)).await;
    second.success(attempt(1, 2)).await;
    assert_eq!(second.last_number, 3);
    drop(second);

    let mut third = remote.dial().await;
    let last = third.hello(remote.hello()).await.unwrap().holding;
    assert!(!last.contains(&attempt(1, 0)), "what was acknowledged is not held: {last:?}");
}

#[tokio::test]
async fn a_driver_of_another_epoch_is_refused_and_the_one_in_use_goes_on() {
    let remote = remote(|_| {}).await;
    let mut driver = remote.greeted().await;
    driver.say(body(1, "echo")).await;
    let mut old = remote.dial().await;
    let reply = old.hello(Hello { epoch: Epoch(2), ..remote.hello() }).await.unwrap();
    assert_eq!(reply.epoch, Epoch(1));
    old.hear_all().await;
    driver.say(ToExecutor::Launch(vec![task(1, 0)])).await;
    driver.success(attempt(1, 0)).await;
}

#[tokio::test]
async fn a_message_that_is_none_ends_its_stream_and_not_the_executor() {
    let remote = remote(|_| {}).await;
    let (say, mut heard) = remote.stream().await;
    let hello = ToExecutor::Hello(Box::new(remote.hello()));
    say.send(hello.into()).await.unwrap();
    assert!(heard.message().await.unwrap().is_some());
    say.send(wire::ToExecutor { message: None }).await.unwrap();
    let rest = async { while let Ok(Some(_)) = heard.message().await {} };
    timeout(SOON, rest).await.expect("the stream ends");
    let mut driver = remote.greeted().await;
    driver.say(body(1, "echo")).await;
    driver.say(ToExecutor::Launch(vec![task(1, 0)])).await;
    driver.success(attempt(1, 0)).await;
}

#[tokio::test]
async fn nobody_without_the_applications_certificate_gets_a_word_in() {
    let remote = remote(|_| {}).await;
    let foreign = Authority::new(APP).unwrap().issue(Role::Driver).unwrap();
    let foreign = Identity { ca_pem: remote.driver.ca_pem.clone(), ..foreign };
    let refused = async {
        let mut client = ExecutorClient::new(remote.channel(&foreign).await.ok()?);
        client.run(futures::stream::empty()).await.ok()
    };
    assert!(timeout(SOON, refused).await.unwrap().is_none());

    let mut plain = TcpStream::connect(remote.address).await.unwrap();
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(SOON, plain.read_to_end(&mut answer)).await.expect("closed");
    assert!(!answer.windows(4).any(|window| window == b"HTTP"), "{answer:?}");
    remote.greeted().await;
}

#[tokio::test]
async fn an_executor_without_a_driver_ends_itself() {
    let mut remote = remote(|birth| birth.lost_after_ms = 30).await;
    assert_eq!(remote.end().await, End::NoDriver);
    assert_eq!(End::NoDriver.exit_code(), 80);
}

#[tokio::test]
async fn an_executor_whose_driver_has_gone_or_fallen_silent_ends_itself() {
    let mut gone = remote(|birth| birth.lost_after_ms = 500).await;
    drop(gone.greeted().await);
    assert_eq!(gone.end().await, End::NoDriver);

    let mut silent = remote(|birth| birth.lost_after_ms = 500).await;
    // Before it was heard for the last time: how late this goes on makes no difference.
    let begun = Instant::now();
    let mut driver = silent.greeted().await;
    driver.hear_all().await;
    assert!(begun.elapsed().as_millis() >= 450, "{:?}", begun.elapsed());
    assert_eq!(silent.end().await, End::NoDriver);
}

#[tokio::test]
async fn a_store_that_cannot_be_opened_fails_every_task_with_its_reason() {
    let remote = remote(|_| {}).await;
    let mut driver = remote.dial().await;
    driver.hello(Hello { store: "gopher://nowhere".into(), ..remote.hello() }).await.unwrap();
    driver.say(body(1, "echo")).await;
    driver.say(ToExecutor::Launch(vec![task(1, 0)])).await;
    let failure = driver.failure(attempt(1, 0)).await;
    assert!(failure.to_string().contains("gopher"), "{failure}");
}

#[tokio::test]
async fn a_birth_is_one_line_that_reads_back_and_unknown_words_are_refused() {
    let identity = Authority::new(APP).unwrap().issue(Role::Executor).unwrap();
    let ids = (APP, Epoch(1), ExecutorId(3));
    let birth = Birth::new(identity, ids, "abc".into(), "/tmp/x".into(), &model::setting::Values::new()).unwrap();
    assert_eq!((birth.lost_after_ms, birth.drain_grace_ms, birth.end_with_parent), (60_000, 25_000, true));
    let line = birth.to_line();
    assert!(!line.contains('\n'));
    assert_eq!(serde_json::from_str::<Birth>(&line).unwrap(), birth);
    assert!(serde_json::from_str::<Birth>(&line.replace("\"program\"", "\"programme\"")).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_empty_tasks_behind_tls() {
    let remote = remote(|_| {}).await;
    let mut driver = remote.greeted().await;
    driver.say(body(1, "empty")).await;
    let begun = Instant::now();
    driver.say(ToExecutor::Launch((0..10_000).map(|p| task(1, p)).collect())).await;
    driver.until(|driver| driver.ended.len() == 10_000).await;
    eprintln!("{:.0} empty tasks/s behind TLS", 10_000.0 / begun.elapsed().as_secs_f64());
}

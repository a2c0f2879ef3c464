//! What must every store keep for us?
//!
//! One function per promise; each works in a folder of its own, panics with what was broken, and may be run against a
//! store that others use too. [`conformance`] runs them all.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt, future};
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, Result};

/// S3's least size of a part that is not the last.
const PART: usize = 5 << 20;

/// More than one page of a list, and more than one bulk delete, of any store.
const MANY: usize = 1_050;

/// Runs every promise, one after the other, below `root`, and deletes what it wrote.
///
/// # Panics
/// A promise is broken.
pub async fn conformance(store: Arc<dyn ObjectStore>, root: &Path) {
    let store = store.as_ref();
    async fn run<F: Future<Output = ()>>(name: &str, root: &Path, check: impl FnOnce(Path) -> F) {
        tracing::info!(promise = name, "check");
        check(root.clone().join(name)).await;
    }
    run("put-get", root, |at| what_is_put_is_got(store, at)).await;
    run("overwrite", root, |at| a_put_replaces_what_was_there(store, at)).await;
    run("create", root, |at| a_create_refuses_what_is_there(store, at)).await;
    run("create-race", root, |at| of_many_creates_one_wins(store, at)).await;
    run("range", root, |at| a_range_is_exact(store, at)).await;
    run("missing", root, |at| what_is_missing_is_not_found(store, at)).await;
    run("list", root, |at| a_list_is_complete_and_fresh(store, at)).await;
    run("list-prefix", root, |at| a_prefix_ends_with_a_segment(store, at)).await;
    run("delete-bulk", root, |at| many_deletes_go_at_once_and_missing_ones_do_no_harm(store, at)).await;
    run("copy", root, |at| a_copy_is_whole_and_leaves_its_source(store, at)).await;
    run("multipart", root, |at| parts_are_one_object_in_order_once_complete(store, at)).await;
    run("multipart-abort", root, |at| an_aborted_upload_leaves_nothing(store, at)).await;
    run("clock", root, |at| the_clock_does_not_run_backwards(store, at)).await;
    run("names", root, |at| names_come_back_as_they_were(store, at)).await;
    let left = keys(store, root).await;
    delete_all(store, left.into_iter().collect()).await;
    assert!(keys(store, root).await.is_empty(), "deleted objects are still listed");
}

/// Bytes come back as they went out, empty ones too, at once, with their length.
pub async fn what_is_put_is_got(store: &dyn ObjectStore, at: Path) {
    for size in [0, 1, 100_000] {
        let (key, body) = (at.clone().join(size.to_string()), pattern(size));
        store.put(&key, body.clone().into()).await.expect("put");
        let got = store.get(&key).await.expect("get what was just put");
        assert_eq!((got.meta.size, got.range.clone()), (size as u64, 0..size as u64), "of {key}");
        assert_eq!(got.bytes().await.expect("read the body"), body, "of {key}");
        assert_eq!(store.head(&key).await.expect("head").size, size as u64, "of {key}");
    }
}

/// The last put counts, at once.
pub async fn a_put_replaces_what_was_there(store: &dyn ObjectStore, at: Path) {
    let key = at.join("a");
    for body in ["first", "second, longer", "3rd"] {
        store.put(&key, body.into()).await.expect("put");
        assert_eq!(read(store, &key).await, body);
    }
}

/// A second `Create` answers `AlreadyExists` and changes nothing; after a delete there is room again.
pub async fn a_create_refuses_what_is_there(store: &dyn ObjectStore, at: Path) {
    let key = at.join("a");
    store.put_opts(&key, "first".into(), PutMode::Create.into()).await.expect("create where nothing is");
    let second = store.put_opts(&key, "second".into(), PutMode::Create.into()).await;
    assert!(matches!(second, Err(Error::AlreadyExists { .. })), "a second create: {second:?}");
    assert_eq!(read(store, &key).await, "first");
    store.put(&key, "third".into()).await.expect("put over what was created");
    assert_eq!(read(store, &key).await, "third");
    store.delete(&key).await.expect("delete");
    store.put_opts(&key, "fourth".into(), PutMode::Create.into()).await.expect("create after a delete");
}

/// Of creates that race, exactly one succeeds, its content is there, and all others hear `AlreadyExists` (or, of some
/// stores, a conflict that says nothing: never success).
pub async fn of_many_creates_one_wins(store: &dyn ObjectStore, at: Path) {
    for round in 0..5 {
        let key = at.clone().join(round.to_string());
        let racers = (0..8).map(|racer| {
            let key = &key;
            async move { (racer, store.put_opts(key, format!("{racer}").into(), PutMode::Create.into()).await) }
        });
        let won: Vec<u32> =
            future::join_all(racers).await.into_iter().filter(|(_, put)| put.is_ok()).map(|(racer, _)| racer).collect();
        assert_eq!(won.len(), 1, "winners: {won:?}");
        assert_eq!(read(store, &key).await, won[0].to_string(), "the winner's content");
    }
}

/// A range gives its bytes and no others, the last one too; one that ends past the end is cut there.
pub async fn a_range_is_exact(store: &dyn ObjectStore, at: Path) {
    let (key, body) = (at.join("a"), pattern(70_000));
    store.put(&key, body.clone().into()).await.expect("put");
    for range in [0..1, 0..70_000, 1..69_999, 65_535..65_537, 69_999..70_000] {
        let got = store.get_range(&key, range.clone()).await.expect("get a range");
        assert_eq!(got, body.slice(range.start as usize..range.end as usize), "{range:?}");
        let options = GetOptions::new().with_range(Some(GetRange::Bounded(range.clone())));
        let got = store.get_opts(&key, options).await.expect("get a range");
        assert_eq!((got.range.clone(), got.meta.size), (range, 70_000), "what the answer says");
    }
    let cut = store.get_range(&key, 69_990..80_000).await.expect("get past the end");
    assert_eq!(cut, body.slice(69_990..), "cut at the end");
    let several = store.get_ranges(&key, &[5..6, 60_000..60_003]).await.expect("get several ranges");
    assert_eq!(several, [body.slice(5..6), body.slice(60_000..60_003)]);
}

/// Reading or copying what is not there is `NotFound`, and so is reading what was deleted.
pub async fn what_is_missing_is_not_found(store: &dyn ObjectStore, at: Path) {
    let (key, other) = (at.clone().join("never"), at.clone().join("other"));
    let check = async |why: &str, key: &Path| {
        let got = store.get(key).await.map(drop);
        assert!(matches!(got, Err(Error::NotFound { .. })), "get {why}: {got:?}");
        let got = store.get_range(key, 0..1).await.map(drop);
        assert!(matches!(got, Err(Error::NotFound { .. })), "get a range {why}: {got:?}");
        let got = store.head(key).await.map(drop);
        assert!(matches!(got, Err(Error::NotFound { .. })), "head {why}: {got:?}");
        let got = store.copy(key, &other).await;
        assert!(matches!(got, Err(Error::NotFound { .. })), "copy {why}: {got:?}");
    };
    check("what never was", &key).await;
    let gone = at.join("gone");
    store.put(&gone, "x".into()).await.expect("put");
    store.delete(&gone).await.expect("delete");
    check("what was deleted", &gone).await;
    let again = store.delete(&gone).await;
    assert!(matches!(again, Ok(()) | Err(Error::NotFound { .. })), "delete twice: {again:?}");
}

/// A list names everything below a prefix at any depth, over many pages, in whatever order, with lengths, as soon as it
/// is written, and nothing deleted; a list from an offset names what comes after it.
pub async fn a_list_is_complete_and_fresh(store: &dyn ObjectStore, at: Path) {
    let name = |i: usize| at.clone().join(format!("{:02}", i % 7)).join(format!("{i:05}"));
    let wrote: BTreeSet<Path> = (0..MANY).map(name).collect();
    put_all(store, &wrote).await;
    assert_eq!(keys(store, &at).await, wrote);
    let metas: Vec<ObjectMeta> = store.list(Some(&at)).try_collect().await.expect("list");
    assert!(metas.iter().all(|meta| meta.size == 3), "a wrong length");
    let folder = at.clone().join("03");
    let in_folder: BTreeSet<Path> = wrote.iter().filter(|key| key.prefix_matches(&folder)).cloned().collect();
    assert_eq!(keys(store, &folder).await, in_folder);
    let offset = in_folder.iter().nth(10).expect("there are 150").clone();
    let later = collect(store.list_with_offset(Some(&folder), &offset)).await;
    assert_eq!(later, in_folder.iter().filter(|key| **key > offset).cloned().collect());
    let level = store.list_with_delimiter(Some(&at)).await.expect("list one level");
    assert_eq!((level.objects.len(), level.common_prefixes.len()), (0, 7), "one level: {:?}", level.common_prefixes);
    let (gone, kept): (Vec<Path>, Vec<Path>) = wrote.into_iter().partition(|key| key.prefix_matches(&folder));
    delete_all(store, gone).await;
    assert_eq!(keys(store, &at).await, kept.into_iter().collect(), "after a delete");
    assert!(keys(store, &at.join("none")).await.is_empty(), "a folder that is not there is empty");
}

/// `a/b` is no prefix of `a/bc`.
pub async fn a_prefix_ends_with_a_segment(store: &dyn ObjectStore, at: Path) {
    let [inside, beside] = [at.clone().join("b").join("x"), at.clone().join("bc").join("x")];
    put_all(store, [&inside, &beside]).await;
    assert_eq!(keys(store, &at.join("b")).await, BTreeSet::from([inside]));
}

/// One stream deletes more than a page, and objects that are not there stop nothing.
pub async fn many_deletes_go_at_once_and_missing_ones_do_no_harm(store: &dyn ObjectStore, at: Path) {
    let wrote: Vec<Path> = (0..MANY).map(|i| at.clone().join(format!("{i:05}"))).collect();
    put_all(store, &wrote).await;
    let keep = at.clone().join("keep");
    put_all(store, [&keep]).await;
    let with_missing = wrote.iter().cloned().chain((0..3).map(|i| at.clone().join(format!("missing-{i}")))).collect();
    delete_all(store, with_missing).await;
    assert_eq!(keys(store, &at).await, BTreeSet::from([keep]));
}

/// A copy replaces what was there, is whole on return, and outlives its source.
pub async fn a_copy_is_whole_and_leaves_its_source(store: &dyn ObjectStore, at: Path) {
    let (from, to, body) = (at.clone().join("from"), at.join("deep").join("to"), pattern(1_000_000));
    store.put(&from, body.clone().into()).await.expect("put");
    store.put(&to, "old".into()).await.expect("put");
    store.copy(&from, &to).await.expect("copy");
    store.copy(&from, &to).await.expect("copy again");
    assert_eq!(store.head(&to).await.expect("head").size, 1_000_000, "whole on return");
    assert_eq!(read(store, &from).await, body, "the source is left");
    store.delete(&from).await.expect("delete");
    assert_eq!(read(store, &to).await, body, "the copy outlives it");
    store.put(&from, "new".into()).await.expect("put");
    assert_eq!(read(store, &to).await, body, "the copy is no link");
}

/// Parts become one object, in the order in which they were asked for, and nothing is seen before.
pub async fn parts_are_one_object_in_order_once_complete(store: &dyn ObjectStore, at: Path) {
    let key = at.clone().join("a");
    let parts = [filled(PART, 1), filled(PART, 2), filled(1_000, 3)];
    let mut upload = store.put_multipart(&key).await.expect("start an upload");
    let sent: Vec<_> = parts.iter().map(|part| upload.put_part(part.clone().into())).collect();
    // The last first: order is that of the calls, not of the answers.
    future::try_join_all(sent.into_iter().rev()).await.expect("upload parts");
    assert!(keys(store, &at).await.is_empty(), "an object is seen before it is complete");
    upload.complete().await.expect("complete");
    assert_eq!(store.head(&key).await.expect("head").size, (2 * PART + 1_000) as u64);
    assert_eq!(read(store, &key).await, parts.concat());
    let range = PART as u64 - 1..PART as u64 + 1;
    assert_eq!(store.get_range(&key, range).await.expect("get over a border"), [1, 2].as_slice());
}

/// An aborted upload leaves no object, nor does one that is dropped.
pub async fn an_aborted_upload_leaves_nothing(store: &dyn ObjectStore, at: Path) {
    let key = at.clone().join("a");
    let mut upload = store.put_multipart(&key).await.expect("start an upload");
    upload.put_part(filled(PART, 1).into()).await.expect("upload a part");
    upload.abort().await.expect("abort");
    let mut upload = store.put_multipart(&key).await.expect("start an upload");
    upload.put_part(filled(PART, 1).into()).await.expect("upload a part");
    drop(upload);
    assert!(keys(store, &at).await.is_empty());
    assert!(matches!(store.get(&key).await.map(drop), Err(Error::NotFound { .. })));
}

/// What is written later is not older, and rewriting renews.
pub async fn the_clock_does_not_run_backwards(store: &dyn ObjectStore, at: Path) {
    let [first, second] = [at.clone().join("1"), at.join("2")];
    let mut last = None;
    for key in [&first, &second, &first] {
        store.put(key, "x".into()).await.expect("put");
        let got = store.get(key).await.expect("get").meta.last_modified;
        assert!(last.is_none_or(|last| got >= last), "{last:?}, then {got:?}");
        last = Some(got);
    }
}

/// Every character that a name of ours can hold comes back from a list, and the listed key reads the object.
pub async fn names_come_back_as_they_were(store: &dyn ObjectStore, at: Path) {
    let names =
        ["day=2024-01-01", "with space", "percent%20", "plus+and&", "umlaut-\u{fc}", "part-00000-x.txt.gz", "_a"];
    let wrote: BTreeSet<Path> = names.iter().map(|name| at.clone().join(*name).join("f")).collect();
    put_all(store, &wrote).await;
    assert_eq!(keys(store, &at).await, wrote);
    for key in keys(store, &at).await {
        assert_eq!(read(store, &key).await, "abc", "{key}");
    }
}

fn pattern(size: usize) -> Bytes {
    (0..size).map(|i| (i * 31 + i / 251) as u8).collect()
}

fn filled(size: usize, byte: u8) -> Bytes {
    Bytes::from(vec![byte; size])
}

async fn read(store: &dyn ObjectStore, key: &Path) -> Bytes {
    store.get(key).await.expect("get").bytes().await.expect("read the body")
}

async fn collect(listed: BoxStream<'static, Result<ObjectMeta>>) -> BTreeSet<Path> {
    let listed: Vec<Path> = listed.map_ok(|meta| meta.location).try_collect().await.expect("list");
    let set: BTreeSet<Path> = listed.iter().cloned().collect();
    assert_eq!(set.len(), listed.len(), "a key is listed twice");
    set
}

async fn keys(store: &dyn ObjectStore, at: &Path) -> BTreeSet<Path> {
    collect(store.list(Some(at))).await
}

async fn put_all<'a>(store: &dyn ObjectStore, keys: impl IntoIterator<Item = &'a Path>) {
    let puts = keys.into_iter().map(|key| store.put(key, "abc".into()));
    stream::iter(puts).buffer_unordered(16).try_collect::<Vec<_>>().await.expect("put");
}

async fn delete_all(store: &dyn ObjectStore, keys: Vec<Path>) {
    let mut deleted = store.delete_stream(stream::iter(keys).map(Ok).boxed());
    while let Some(result) = deleted.next().await {
        assert!(matches!(result, Ok(_) | Err(Error::NotFound { .. })), "delete: {result:?}");
    }
}

//! How does a fault get between a caller and its store?
//!
//! One wrapper for both stores of this module: they differ in what they decide per request, not in how it is done.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    RenameTargetMode, Result, UploadPart,
};
use serde::{Deserialize, Serialize};

/// What is asked of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// Write an object, whatever is there.
    Put,
    /// Write an object if nothing is there.
    Create,
    /// Begin an upload in parts.
    MultipartStart,
    /// Upload one part.
    MultipartPart,
    /// Make the parts an object.
    MultipartComplete,
    /// Give the parts up.
    MultipartAbort,
    /// Read bytes.
    Get,
    /// Read what is known of an object.
    Head,
    /// List objects: one request per list, however many pages it has.
    List,
    /// Delete one object: one request each, also of many at once.
    Delete,
    /// Copy an object, or rename it.
    Copy,
}

/// What goes wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// It is not applied, and answered with this HTTP status.
    Status(u16),
    /// It is applied after so many milliseconds.
    DelayMs(u64),
    /// Its bytes travel at this rate.
    BytesPerSecond(u64),
    /// Its body ends in the middle, as if that were its end.
    ShortBody,
    /// One bit in the middle of its body is another: on the way back of a read, on the way out of a write.
    FlipBit,
    /// Its body is another object's, or, if there is none, its own backwards.
    WrongObject,
    /// It is applied, and its caller is told that the connection broke.
    LostReply,
    /// It is not applied, and its caller is told that the object exists.
    FalseAlreadyExists,
    /// It is applied, and its caller is told that the object exists: what a client makes of a retried request.
    AppliedAlreadyExists,
    /// A create is applied as a put, whatever is there: the store has no put-if-absent.
    CreateOverwrites,
    /// It is never answered nor applied.
    Hang,
    /// Nothing is found.
    Missing,
    /// The process ends at once, with the request unsent.
    Abort,
}

/// What was decided of one request.
#[derive(Debug, Default)]
pub(super) struct Decision {
    /// Wait for [`Hooks::hold`] first.
    pub(super) hold: bool,
    /// Then so long.
    pub(super) delay: Duration,
    /// Then do this.
    pub(super) fault: Option<Fault>,
}

/// What a store of this module decides.
pub(super) trait Hooks: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// A request goes out, with so many bytes of body (for a read: bytes asked for, if that is known).
    fn decide(&self, verb: Verb, key: &Path, bytes: u64) -> Decision;

    /// Ends when held requests may go on.
    fn hold(&self) -> BoxFuture<'static, ()> {
        futures::future::ready(()).boxed()
    }

    /// An object was written, or is gone.
    fn changed(&self, _key: &Path) {}

    /// What is known of an object, on its way to the caller.
    fn stamp(&self, meta: ObjectMeta) -> ObjectMeta {
        meta
    }

    /// So many bytes were read.
    fn read(&self, _bytes: u64) {}

    /// How long a body of so many bytes takes.
    fn transfer(&self, _bytes: u64) -> Duration {
        Duration::ZERO
    }
}

/// A store with [`Hooks`] in front of it.
#[derive(Debug)]
pub(super) struct Intercepted<H> {
    inner: Arc<dyn ObjectStore>,
    hooks: Arc<H>,
}

impl<H> Clone for Intercepted<H> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), hooks: Arc::clone(&self.hooks) }
    }
}

fn failure(text: impl Into<String>) -> Error {
    Error::Generic { store: "injected fault", source: text.into().into() }
}

fn status(code: u16, key: &Path) -> Error {
    let (path, source) = (key.to_string(), format!("injected fault: HTTP status {code}").into());
    match code {
        401 => Error::Unauthenticated { path, source },
        403 => Error::PermissionDenied { path, source },
        404 => Error::NotFound { path, source },
        409 => Error::AlreadyExists { path, source },
        412 => Error::Precondition { path, source },
        _ => failure(format!("HTTP status {code} for {key}")),
    }
}

/// What is still to happen once the request was applied.
fn after<T>(fault: Option<Fault>, key: &Path, result: Result<T>) -> Result<T> {
    match fault {
        Some(Fault::LostReply) => result.and_then(|_| Err(failure(format!("connection reset: reply for {key} lost")))),
        Some(Fault::AppliedAlreadyExists) => result.and_then(|_| Err(status(409, key))),
        _ => result,
    }
}

fn flip(payload: PutPayload) -> PutPayload {
    let mut bytes = Bytes::from(payload).to_vec();
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 0x10;
    }
    bytes.into()
}

impl<H: Hooks> Intercepted<H> {
    pub(super) fn new(inner: Arc<dyn ObjectStore>, hooks: H) -> Self {
        Self { inner, hooks: Arc::new(hooks) }
    }

    pub(super) fn hooks(&self) -> &H {
        &self.hooks
    }

    async fn act(&self, decision: Decision, key: &Path, bytes: u64) -> Result<Option<Fault>> {
        if decision.hold {
            self.hooks.hold().await;
        }
        if !decision.delay.is_zero() {
            tokio::time::sleep(decision.delay).await;
        }
        match decision.fault {
            Some(Fault::Status(code)) => return Err(status(code, key)),
            Some(Fault::Missing) => return Err(status(404, key)),
            Some(Fault::FalseAlreadyExists) => return Err(status(409, key)),
            Some(Fault::DelayMs(ms)) => tokio::time::sleep(Duration::from_millis(ms)).await,
            Some(Fault::BytesPerSecond(rate)) => {
                tokio::time::sleep(Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64)).await;
            }
            Some(Fault::Hang) => futures::future::pending().await,
            Some(Fault::Abort) => std::process::abort(),
            Some(
                Fault::ShortBody
                | Fault::FlipBit
                | Fault::WrongObject
                | Fault::LostReply
                | Fault::AppliedAlreadyExists
                | Fault::CreateOverwrites,
            )
            | None => {}
        }
        Ok(decision.fault)
    }

    async fn begin(&self, verb: Verb, key: &Path, bytes: u64) -> Result<Option<Fault>> {
        let decision = self.hooks.decide(verb, key, bytes);
        self.act(decision, key, bytes).await
    }

    /// Another object's bytes, of the same length.
    async fn wrong_bytes(&self, key: &Path, range: &Range<u64>) -> Option<Bytes> {
        let folder = Path::from_iter(key.parts().take(key.parts_count().saturating_sub(1)));
        let others: Vec<ObjectMeta> = self.inner.list(Some(&folder)).try_collect().await.ok()?;
        let other = others.into_iter().find(|meta| meta.location != *key && meta.size >= range.end)?;
        self.inner.get_range(&other.location, range.clone()).await.ok()
    }

    async fn body(&self, key: &Path, fault: Option<Fault>, result: GetResult) -> Result<GetResult> {
        let GetResult { payload, meta, range, attributes } = result;
        let meta = self.hooks.stamp(meta);
        let length = range.end - range.start;
        self.hooks.read(length);
        let whole = |payload| {
            GetResult { payload, meta: meta.clone(), range: range.clone(), attributes: attributes.clone() }.bytes()
        };
        let bytes = match fault {
            Some(Fault::ShortBody) => {
                let bytes = whole(payload).await?;
                bytes.slice(..bytes.len() / 2)
            }
            Some(Fault::FlipBit) => flip(PutPayload::from(whole(payload).await?)).into(),
            Some(Fault::WrongObject) => match self.wrong_bytes(key, &range).await {
                Some(bytes) => bytes,
                None => whole(payload).await?.iter().rev().copied().collect(),
            },
            _ => {
                let pause = self.hooks.transfer(length)
                    + match fault {
                        Some(Fault::BytesPerSecond(rate)) => {
                            Duration::from_secs_f64(length as f64 / rate.max(1) as f64)
                        }
                        _ => Duration::ZERO,
                    };
                if pause.is_zero() {
                    return Ok(GetResult { payload, meta, range, attributes });
                }
                let bytes = whole(payload).await?;
                tokio::time::sleep(pause).await;
                bytes
            }
        };
        let payload = GetResultPayload::Stream(stream::once(async move { Ok(bytes) }).boxed());
        Ok(GetResult { payload, meta, range, attributes })
    }

    async fn delete_one(&self, key: Path) -> Result<Path> {
        let fault = self.begin(Verb::Delete, &key, 0).await?;
        let result = self.inner.delete(&key).await;
        self.hooks.changed(&key);
        after(fault, &key, result).map(|()| key)
    }

    fn listing(
        &self,
        prefix: Option<&Path>,
        inner: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, key) = (self.clone(), prefix.cloned().unwrap_or_default());
        let stamping = self.clone();
        stream::once(async move {
            let fault = this.begin(Verb::List, &key, 0).await?;
            after(fault, &key, Ok(inner))
        })
        .try_flatten()
        .map_ok(move |meta| stamping.hooks.stamp(meta))
        .boxed()
    }
}

impl<H: Hooks> fmt::Display for Intercepted<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.hooks, self.inner)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<H: Hooks> ObjectStore for Intercepted<H> {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let verb = if opts.mode == PutMode::Create { Verb::Create } else { Verb::Put };
        let length = payload.content_length() as u64;
        let fault = self.begin(verb, location, length).await?;
        let payload = if fault == Some(Fault::FlipBit) { flip(payload) } else { payload };
        let opts = match fault {
            Some(Fault::CreateOverwrites) => PutOptions { mode: PutMode::Overwrite, ..opts },
            _ => opts,
        };
        tokio_sleep(self.hooks.transfer(length)).await;
        let result = self.inner.put_opts(location, payload, opts).await;
        if result.is_ok() {
            self.hooks.changed(location);
        }
        after(fault, location, result)
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let fault = self.begin(Verb::MultipartStart, location, 0).await?;
        let upload = self.inner.put_multipart_opts(location, opts).await?;
        let upload = Upload { inner: upload, store: self.clone(), location: location.clone() };
        after(fault, location, Ok(Box::new(upload) as Box<dyn MultipartUpload>))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let verb = if options.head { Verb::Head } else { Verb::Get };
        let fault = self.begin(verb, location, 0).await?;
        let result = self.inner.get_opts(location, options).await;
        match after(fault, location, result) {
            Ok(result) if verb == Verb::Get => self.body(location, fault, result).await,
            Ok(result) => Ok(GetResult { meta: self.hooks.stamp(result.meta), ..result }),
            Err(error) => Err(error),
        }
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        stream::iter(ranges).then(|range| self.get_range(location, range.clone())).try_collect().await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        locations
            .then(move |location| {
                let this = this.clone();
                async move { this.delete_one(location?).await }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(prefix, self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(prefix, self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let key = prefix.cloned().unwrap_or_default();
        let fault = self.begin(Verb::List, &key, 0).await?;
        let mut listed = after(fault, &key, self.inner.list_with_delimiter(prefix).await)?;
        listed.objects = listed.objects.into_iter().map(|meta| self.hooks.stamp(meta)).collect();
        Ok(listed)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let fault = self.begin(Verb::Copy, to, 0).await?;
        let result = self.inner.copy_opts(from, to, options).await;
        if result.is_ok() {
            self.hooks.changed(to);
        }
        after(fault, to, result)
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let mode = match options.target_mode {
            RenameTargetMode::Overwrite => CopyMode::Overwrite,
            RenameTargetMode::Create => CopyMode::Create,
        };
        self.copy_opts(from, to, CopyOptions::new().with_mode(mode)).await?;
        self.delete_one(from.clone()).await.map(drop)
    }
}

async fn tokio_sleep(pause: Duration) {
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
}

#[derive(Debug)]
struct Upload<H> {
    inner: Box<dyn MultipartUpload>,
    store: Intercepted<H>,
    location: Path,
}

#[async_trait]
impl<H: Hooks> MultipartUpload for Upload<H> {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let length = data.content_length() as u64;
        // Parts are numbered in the order of these calls: the request must be made here, and may only be sent later.
        let decision = self.store.hooks.decide(Verb::MultipartPart, &self.location, length);
        let data = if decision.fault == Some(Fault::FlipBit) { flip(data) } else { data };
        let part = self.inner.put_part(data);
        let (store, location) = (self.store.clone(), self.location.clone());
        async move {
            let fault = store.act(decision, &location, length).await?;
            tokio_sleep(store.hooks.transfer(length)).await;
            after(fault, &location, part.await)
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let fault = self.store.begin(Verb::MultipartComplete, &self.location, 0).await?;
        let result = self.inner.complete().await;
        if result.is_ok() {
            self.store.hooks.changed(&self.location);
        }
        after(fault, &self.location, result)
    }

    async fn abort(&mut self) -> Result<()> {
        let fault = self.store.begin(Verb::MultipartAbort, &self.location, 0).await?;
        after(fault, &self.location, self.inner.abort().await)
    }
}

/// A public store made of an [`Intercepted`] one.
macro_rules! delegate_store {
    ($name:ty, $field:ident) => {
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(&self.$field, f)
            }
        }

        #[async_trait::async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl object_store::ObjectStore for $name {
            async fn put_opts(
                &self,
                location: &object_store::path::Path,
                payload: object_store::PutPayload,
                opts: object_store::PutOptions,
            ) -> object_store::Result<object_store::PutResult> {
                self.$field.put_opts(location, payload, opts).await
            }

            async fn put_multipart_opts(
                &self,
                location: &object_store::path::Path,
                opts: object_store::PutMultipartOptions,
            ) -> object_store::Result<Box<dyn object_store::MultipartUpload>> {
                self.$field.put_multipart_opts(location, opts).await
            }

            async fn get_opts(
                &self,
                location: &object_store::path::Path,
                options: object_store::GetOptions,
            ) -> object_store::Result<object_store::GetResult> {
                self.$field.get_opts(location, options).await
            }

            async fn get_ranges(
                &self,
                location: &object_store::path::Path,
                ranges: &[std::ops::Range<u64>],
            ) -> object_store::Result<Vec<bytes::Bytes>> {
                self.$field.get_ranges(location, ranges).await
            }

            fn delete_stream(
                &self,
                locations: futures::stream::BoxStream<'static, object_store::Result<object_store::path::Path>>,
            ) -> futures::stream::BoxStream<'static, object_store::Result<object_store::path::Path>> {
                self.$field.delete_stream(locations)
            }

            fn list(
                &self,
                prefix: Option<&object_store::path::Path>,
            ) -> futures::stream::BoxStream<'static, object_store::Result<object_store::ObjectMeta>> {
                self.$field.list(prefix)
            }

            fn list_with_offset(
                &self,
                prefix: Option<&object_store::path::Path>,
                offset: &object_store::path::Path,
            ) -> futures::stream::BoxStream<'static, object_store::Result<object_store::ObjectMeta>> {
                self.$field.list_with_offset(prefix, offset)
            }

            async fn list_with_delimiter(
                &self,
                prefix: Option<&object_store::path::Path>,
            ) -> object_store::Result<object_store::ListResult> {
                self.$field.list_with_delimiter(prefix).await
            }

            async fn copy_opts(
                &self,
                from: &object_store::path::Path,
                to: &object_store::path::Path,
                options: object_store::CopyOptions,
            ) -> object_store::Result<()> {
                self.$field.copy_opts(from, to, options).await
            }

            async fn rename_opts(
                &self,
                from: &object_store::path::Path,
                to: &object_store::path::Path,
                options: object_store::RenameOptions,
            ) -> object_store::Result<()> {
                self.$field.rename_opts(from, to, options).await
            }
        }
    };
}

pub(super) use delegate_store;

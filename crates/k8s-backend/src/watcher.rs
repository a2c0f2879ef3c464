//! How do watch events become what was seen of pods?

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, WatchParams};
use kube::runtime::watcher::{Config, Error, Event};
use kube::runtime::{WatchStreamExt, watcher};
use model::ids::AppId;

use crate::answer::{answer, within};
use crate::names;
use crate::refusal::Answer;
use crate::seen::Seen;

/// A watch is begun anew after so many seconds, from where it was: a connection that died silently is noticed then.
const WATCH_SECONDS: u32 = 60;

/// What a watch tells.
#[derive(Debug)]
pub(crate) enum Watched {
    /// A list of all pods begins: what is not in it, and was there before, is gone.
    Listing,
    /// The list.
    Listed(Vec<Seen>),
    /// A pod as it is now.
    Seen(Seen),
    /// A pod as it was last, and it is gone.
    Gone(Seen),
    /// The watch broke, and is begun anew after a while.
    Broke(Answer),
}

/// Watches the executors of an application, of every epoch.
pub(crate) fn watch(pods: Api<Pod>, app: AppId) -> impl Stream<Item = Watched> + Send {
    let config = Config::default().labels(&names::select_executors(app)).timeout(WATCH_SECONDS);
    // Whole Pods live no longer than their event.
    let events = watcher(pods, config).default_backoff();
    events
        .scan(Vec::new(), move |list, event| {
            let watched = match event {
                Ok(Event::Init) => {
                    list.clear();
                    Some(Watched::Listing)
                }
                Ok(Event::InitApply(pod)) => {
                    list.extend(Seen::of(&pod, app));
                    None
                }
                Ok(Event::InitDone) => Some(Watched::Listed(std::mem::take(list))),
                Ok(Event::Apply(pod)) => Seen::of(&pod, app).map(Watched::Seen),
                Ok(Event::Delete(pod)) => Seen::of(&pod, app).map(Watched::Gone),
                Err(error) => Some(Watched::Broke(why(&error))),
            };
            std::future::ready(Some(watched))
        })
        .filter_map(std::future::ready)
}

/// Whether these objects may be listed and watched, and the API server answers.
pub(crate) async fn may_watch<K>(api: &Api<K>, which: ListParams) -> Result<(), Answer>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    K::DynamicType: Default,
{
    let ListParams { label_selector, field_selector, .. } = which.clone();
    let watch = WatchParams { label_selector, field_selector, timeout: Some(1), ..WatchParams::default() };
    within(api.list_metadata(&which.limit(1))).await?;
    // What it tells is of no interest.
    within(api.watch_metadata(&watch, "0")).await.map(drop)
}

fn why(error: &Error) -> Answer {
    match error {
        Error::InitialListFailed(error) | Error::WatchStartFailed(error) | Error::WatchFailed(error) => answer(error),
        Error::WatchError(status) => answer(&kube::Error::Api(status.clone())),
        Error::NoResourceVersion => Answer { message: error.to_string(), ..Answer::default() },
    }
}

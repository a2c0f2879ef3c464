//! What did the API server answer?

use std::time::Duration;

use tokio::time::timeout;

use crate::refusal::Answer;

/// A request that has no answer after so long will hardly get one.
pub(crate) const REQUEST_WITHIN: Duration = Duration::from_secs(10);

/// Waits for an answer, but not for ever.
pub(crate) async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Answer> {
    match timeout(REQUEST_WITHIN, request).await {
        Ok(answered) => answered.map_err(|error| answer(&error)),
        Err(_) => {
            let message = format!("no answer within {} s", REQUEST_WITHIN.as_secs());
            Err(Answer { message, ..Answer::default() })
        }
    }
}

/// What is in an error. One that is no answer of the server's has code 0; credentials that cannot be read have 401.
pub(crate) fn answer(error: &kube::Error) -> Answer {
    match error {
        kube::Error::Api(status) => {
            let details = status.details.as_ref();
            let causes = details.iter().flat_map(|details| &details.causes);
            let retry_after = details.map_or(0, |details| details.retry_after_seconds);
            Answer {
                code: status.code,
                reason: status.reason.clone(),
                message: status.message.clone(),
                fields: causes.map(|cause| cause.field.clone()).filter(|field| !field.is_empty()).collect(),
                retry_after: (retry_after > 0).then(|| Duration::from_secs(retry_after.into())),
            }
        }
        kube::Error::Auth(error) => Answer { code: 401, message: chain(error), ..Answer::default() },
        error => Answer { message: chain(error), ..Answer::default() },
    }
}

/// An error and its sources on one line. Libraries repeat their sources in their own text.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

//! The events for a caller whose stream has begun before its backend answered: the backend's own, or what stands for another
//! kind of answer.

use super::{
    decoded,
    respond::{log, pieces},
    sniff::Sniffed,
    sse_stream::Pieces,
};
use crate::inference::{Family, InferenceError, InferenceResponse};
use futures::{StreamExt, stream};

/// The rest of a stream, from its backend's response.
pub(super) async fn as_events(family: Family, answered: Result<InferenceResponse, InferenceError>) -> Pieces {
    let events = match answered {
        Ok(response) => embed(family, response).await,
        Err(error) => Err(error),
    };
    events.unwrap_or_else(|error| stream::iter([Err(error)]).boxed())
}

async fn embed(family: Family, response: InferenceResponse) -> Result<Pieces, InferenceError> {
    let is_success = response.is_success();
    let InferenceResponse {
        provider,
        wake_id,
        head,
        body,
    } = response;
    log(&provider, wake_id, head.status);
    let body = pieces(body, provider.clone(), wake_id);
    let body = decoded::decoded(&head, body, &provider, wake_id)?;
    let body = Sniffed::new(body, provider, wake_id, head.status, family);
    if is_success {
        body.events().await
    } else {
        Ok(body.error().await)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::sniff::ERROR_WITHIN, *};
    use crate::inference::ResponseBody;
    use bytes::Bytes;
    use reveille_bus::relay::ResponseHead;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn an_error_that_never_ends_is_told_as_far_as_it_has_come() {
        let half = stream::iter([Ok(Bytes::from_static(b"half"))]).chain(stream::pending());
        let response = InferenceResponse {
            provider: "gpu-box/vllm".parse().expect("legal"),
            wake_id: None,
            head: ResponseHead {
                status: 500,
                headers: vec![],
            },
            body: ResponseBody::Pieces(half.boxed()),
        };
        let began = Instant::now();
        let events: Vec<_> = as_events(Family::OpenAi, Ok(response)).await.collect().await;
        assert_eq!(began.elapsed(), ERROR_WITHIN);
        let [Ok(event)] = events.as_slice() else {
            panic!("one event: {events:?}")
        };
        let event = String::from_utf8_lossy(event);
        assert!(
            event.contains("half … (the first 4 bytes of the answer)"),
            "{event}"
        );
    }
}

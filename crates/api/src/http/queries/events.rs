//! Events: in pages, oldest first by default; or as they happen.

use crate::http::{
    ApiError, AppState,
    extract::{Query, parsed},
    inference::event_stream,
    paging::{Page, limit, reach},
};
use axum::{
    Json,
    body::Body,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use reveille_domain::rows::{
    Cursor, EventPosition, EventQuery, EventRow, EventSort, RowsError, Sort, parse_events_cursor,
};
use serde::Deserialize;
use std::{convert::Infallible, time::Duration};
use tokio_stream::StreamExt as _;

/// After this long without an event a comment is sent, so that clients don't take the stream for dead.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct Filter {
    #[serde(default)]
    follow: bool,
    #[serde(default)]
    aggregate_type: Option<String>,
    #[serde(default)]
    aggregate_id: Option<String>,
    #[serde(default)]
    event_type: Option<String>,
    #[serde(default, deserialize_with = "parsed")]
    after_seq: Option<u64>,
    #[serde(default, deserialize_with = "parsed")]
    sort: Option<Sort<EventSort>>,
    after: Option<Cursor>,
    #[serde(default, rename = "limit", deserialize_with = "parsed")]
    rows: Option<u32>,
    #[serde(default, deserialize_with = "parsed")]
    min_seq: Option<u64>,
}

pub(in crate::http) async fn list_or_follow(
    State(state): State<AppState>,
    headers: HeaderMap,
    Query(filter): Query<Filter>,
) -> Result<Response, ApiError> {
    let follow = filter.follow;
    let query = filter.query();
    if follow && query.sort.descending {
        let reason = "followed events come in the order of the journal: use `sort=seq`, or leave `sort` out";
        return Err(ApiError::invalid("invalid_query", "sort", reason));
    }
    if follow {
        return Ok(follow_from(&state, start(&query, &headers)?, query));
    }
    reach(&*state.rows, query.min_seq).await?;
    let page: Page<EventRow> = state.rows.events(&query).await?.into();
    Ok(Json(page).into_response())
}

impl Filter {
    fn query(self) -> EventQuery {
        EventQuery {
            aggregate_type: self.aggregate_type,
            aggregate_id: self.aggregate_id,
            event_type: self.event_type,
            after_seq: self.after_seq,
            sort: self.sort.unwrap_or_default(),
            after: self.after,
            limit: limit(self.rows),
            min_seq: self.min_seq,
        }
    }
}

/// Where to begin; `Last-Event-ID`, which browsers send when they reconnect, takes precedence over the query.
fn start(query: &EventQuery, headers: &HeaderMap) -> Result<Option<EventPosition>, RowsError> {
    if let Some(last) = headers.get("last-event-id").and_then(|id| id.to_str().ok()) {
        return parse_events_cursor(&Cursor::new(last)).map(Some);
    }
    let given = query.after.is_some() || query.after_seq.is_some();
    given.then(|| query.range().map(|range| range.after)).transpose()
}

fn follow_from(state: &AppState, after: Option<EventPosition>, query: EventQuery) -> Response {
    // The last commit may have had more events.
    let after_seq = after.map(|after| after.stream_seq.saturating_sub(1));
    let events = state.feed.follow(after_seq);
    let wanted = move |row: &EventRow| after.is_none_or(|after| row.position() > after) && query.matches(row);
    let events = futures::StreamExt::filter_map(events, move |event| {
        let text = match event {
            Ok(row) => wanted(&row).then(|| sse(&row)),
            Err(error) => {
                let response = ApiError::from(error).response();
                Some(Bytes::from(
                    [&b"event: error\ndata: "[..], &response.json(), b"\n\n"].concat(),
                ))
            }
        };
        std::future::ready(text)
    });
    let signs = events.timeout_repeating(tokio::time::interval(SIGN_OF_LIFE));
    let body = futures::StreamExt::map(signs, |text| {
        Ok::<_, Infallible>(text.unwrap_or_else(|_| Bytes::from_static(b": nothing new\n\n")))
    });
    event_stream(Body::from_stream(body))
}

/// A server-sent event; its id is the cursor after it.
fn sse(row: &EventRow) -> Bytes {
    let data = serde_json::to_string(row).unwrap_or_default();
    // The name comes from the journal, and must not end the line.
    let name: String = row.event_type.chars().filter(|c| !c.is_control()).collect();
    Bytes::from(format!(
        "id: {}\nevent: {name}\ndata: {data}\n\n",
        row.position().cursor()
    ))
}

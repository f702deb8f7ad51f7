//! Extractors whose rejections are our JSON errors.

use super::ApiError;
use axum::extract::{
    FromRequestParts,
    rejection::{PathRejection, QueryRejection},
};
use serde::{Deserialize, Deserializer, de::Error as _};
use std::{fmt::Display, str::FromStr};

/// The query string.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(ApiError))]
pub(crate) struct Query<T>(pub T);

/// What the path names.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(ApiError))]
pub(crate) struct Path<T>(pub T);

impl From<QueryRejection> for ApiError {
    fn from(refused: QueryRejection) -> Self {
        Self::invalid("invalid_query", None, refused.body_text())
    }
}

impl From<PathRejection> for ApiError {
    fn from(refused: PathRejection) -> Self {
        Self::invalid("invalid_path", None, refused.body_text())
    }
}

/// Reads an optional parameter by the rules of its type: `#[serde(default, deserialize_with = "parsed")]`.
pub(crate) fn parsed<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr,
    T::Err: Display,
{
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| text.parse().map_err(D::Error::custom))
        .transpose()
}

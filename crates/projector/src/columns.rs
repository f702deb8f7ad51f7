//! Conversions between values and columns.

use reveille_domain::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{Row, postgres::PgRow};

/// The number as a `bigint`, clamped to its maximum (as a time, the year 292 million).
pub(crate) fn big(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(crate) fn big_ms(time: Timestamp) -> i64 {
    big(time.as_millis())
}

/// JSON text, to be cast to `json`. sqlx would bind a value as `jsonb`, which refuses `\u0000` and reformats it.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> String {
    // Only maps with keys that aren't text fail, and rows have none.
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}

/// The name of a variant without data, as serde writes it.
pub(crate) fn tag<T: Serialize>(value: T) -> String {
    json(&value).trim_matches('"').to_owned()
}

fn broken(column: &str, error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: Box::new(error),
    }
}

/// Reads columns into the types of rows.
pub(crate) trait Columns {
    fn number(&self, column: &str) -> sqlx::Result<u64>;
    fn number_if_any(&self, column: &str) -> sqlx::Result<Option<u64>>;
    fn text(&self, column: &str) -> sqlx::Result<String>;
    /// A value from its JSON. `tagged` reads one from serde's text instead.
    fn json<T: DeserializeOwned>(&self, column: &str) -> sqlx::Result<T>;
    fn tagged<T: DeserializeOwned>(&self, column: &str) -> sqlx::Result<T>;
    fn tagged_if_any<T: DeserializeOwned>(&self, column: &str) -> sqlx::Result<Option<T>>;

    fn time(&self, column: &str) -> sqlx::Result<Timestamp> {
        self.number(column).map(Timestamp::from_millis)
    }

    fn time_if_any(&self, column: &str) -> sqlx::Result<Option<Timestamp>> {
        Ok(self.number_if_any(column)?.map(Timestamp::from_millis))
    }
}

impl Columns for PgRow {
    fn number(&self, column: &str) -> sqlx::Result<u64> {
        u64::try_from(self.try_get::<i64, _>(column)?).map_err(|error| broken(column, error))
    }

    fn number_if_any(&self, column: &str) -> sqlx::Result<Option<u64>> {
        let number = self.try_get::<Option<i64>, _>(column)?.map(u64::try_from);
        number.transpose().map_err(|error| broken(column, error))
    }

    fn text(&self, column: &str) -> sqlx::Result<String> {
        self.try_get(column)
    }

    fn json<T: DeserializeOwned>(&self, column: &str) -> sqlx::Result<T> {
        let value = self
            .try_get::<Option<serde_json::Value>, _>(column)?
            .unwrap_or_default();
        serde_json::from_value(value).map_err(|error| broken(column, error))
    }

    fn tagged<T: DeserializeOwned>(&self, column: &str) -> sqlx::Result<T> {
        let value = serde_json::Value::String(self.text(column)?);
        serde_json::from_value(value).map_err(|error| broken(column, error))
    }

    fn tagged_if_any<T: DeserializeOwned>(&self, column: &str) -> sqlx::Result<Option<T>> {
        let tag = self.try_get::<Option<String>, _>(column)?;
        tag.map(|_| self.tagged(column)).transpose()
    }
}

//! Statements that a pooler of transactions, such as PgBouncer, may hand to any of its sessions.
//!
//! sqlx prepares a statement in one exchange and runs it in the next one. Such a pooler may give each exchange another session
//! unless both are in one transaction; in the other session the statement is missing, or is another client's. So all SQL runs
//! in transactions, nothing is kept in a session beyond one, and no statement has a name.

use crate::ProjectorError;
use sqlx::{
    Database, FromRow, Postgres, QueryBuilder,
    postgres::{PgArguments, PgConnectOptions, PgRow},
    query::{Query, QueryAs, QueryScalar},
};
use std::str::FromStr;

/// What a database URL begins with.
const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

/// Parses the database URL.
pub(crate) fn options(url: &str) -> Result<PgConnectOptions, ProjectorError> {
    // sqlx takes any scheme, and would speak to another program's server.
    if !SCHEMES.iter().any(|scheme| url.starts_with(scheme)) {
        return Err(ProjectorError::DatabaseUrl(
            "it must begin with postgres://, as in postgres://user@host/database; other databases can't be used".to_owned(),
        ));
    }
    let options = PgConnectOptions::from_str(url).map_err(|error| match error {
        sqlx::Error::Configuration(reason) => ProjectorError::DatabaseUrl(reason.to_string()),
        _ => ProjectorError::DatabaseUrl("it isn't a PostgreSQL URL".to_owned()),
    })?;
    // Nothing here is a float, and PgBouncer refuses this setting unless it is told to ignore it.
    Ok(options.application_name("reveille").extra_float_digits(None))
}

/// A statement without a name, for use in a transaction.
pub(crate) fn query(sql: &str) -> Query<'_, Postgres, PgArguments> {
    sqlx::query(sql).persistent(false)
}

/// One whose rows are `T`.
pub(crate) fn query_as<'q, T>(sql: &'q str) -> QueryAs<'q, Postgres, T, PgArguments>
where
    T: for<'r> FromRow<'r, PgRow>,
{
    sqlx::query_as(sql).persistent(false)
}

/// One whose rows have one column, a `T`.
pub(crate) fn query_scalar<'q, T>(sql: &'q str) -> QueryScalar<'q, Postgres, T, PgArguments>
where
    (T,): for<'r> FromRow<'r, PgRow>,
{
    sqlx::query_scalar(sql).persistent(false)
}

/// One that was put together.
pub(crate) fn built<'q>(
    sql: &'q mut QueryBuilder<'_, Postgres>,
) -> Query<'q, Postgres, <Postgres as Database>::Arguments<'q>> {
    sql.build().persistent(false)
}

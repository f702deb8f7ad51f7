//! What a database is like, for people: looked at without changing anything.

use crate::{migrate, sql};
use sqlx::{Connection, PgConnection};
use std::time::Duration;
use tokio::time::timeout;

/// How long the database may take to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// What a look at a database finds.
#[derive(Debug)]
pub struct DatabaseHealth {
    /// The server's version.
    pub version: String,
    /// Whose tables it has.
    pub tables: Tables,
}

/// The tables where Reveille's are, or would be.
#[derive(Debug, PartialEq, Eq)]
pub enum Tables {
    /// Reveille's own.
    Ours,
    /// There are none yet.
    Missing,
    /// They belong to another program: their names, or the first of them.
    Foreign(String),
}

/// Looks at the database at `url`.
///
/// # Errors
/// A sentence, without the URL, that says why it can't be looked at.
pub async fn inspect_database(url: &str) -> Result<DatabaseHealth, String> {
    let options = sql::options(url).map_err(|error| error.to_string())?;
    let connected = timeout(ANSWERS_WITHIN, PgConnection::connect_with(&options)).await;
    let connected =
        connected.map_err(|_| format!("unreachable: no answer within {} s", ANSWERS_WITHIN.as_secs()))?;
    let mut connection = connected.map_err(|error| format!("unreachable: {error}"))?;
    let answer = timeout(ANSWERS_WITHIN, look(&mut connection)).await;
    let answer = answer.map_err(|_| "accepts connections, but doesn't answer")?;
    answer.map_err(|error| format!("answers with an error: {error}"))
}

async fn look(connection: &mut PgConnection) -> sqlx::Result<DatabaseHealth> {
    let mut tx = connection.begin().await?;
    let query = "SELECT current_setting('server_version'), to_regclass('checkpoint') IS NOT NULL";
    let (version, is_there) = sql::query_as(query).fetch_one(&mut *tx).await?;
    let foreign = migrate::foreign_tables(&mut tx).await?;
    tx.rollback().await?;
    let tables = match is_there {
        _ if !foreign.is_empty() => Tables::Foreign(migrate::listed(&foreign)),
        true => Tables::Ours,
        false => Tables::Missing,
    };
    Ok(DatabaseHealth { version, tables })
}

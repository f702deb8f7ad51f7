//! Everything as of a moment of the past, from the archive in Postgres.

use crate::{
    columns::{Columns, big, big_ms},
    commits::{self, postgres},
    sql,
};
use reveille_bus::{archive::ArchiveError, as_of};
use reveille_domain::as_of::{Moment, World};
use sqlx::{Connection, PgConnection};

/// Each aggregate's last commit up to a sequence.
const LAST_COMMITS: &str = "SELECT DISTINCT ON (subject) stream_seq, subject, headers, payload, hash FROM commits \
     WHERE stream_seq <= $1 ORDER BY subject, stream_seq DESC";

/// Everything in the database at `url` as of `moment`.
///
/// # Errors
/// When the database is unavailable, or a commit's bytes were changed.
pub async fn world_as_of(url: &str, moment: Moment) -> Result<World, ArchiveError> {
    let options = sql::options(url).map_err(postgres)?;
    let mut db = PgConnection::connect_with(&options).await.map_err(postgres)?;
    let mut tx = db
        .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .await
        .map_err(postgres)?;
    let sequence = match moment {
        Moment::Sequence(sequence) => sql::query("SELECT coalesce(max(stream_seq), 0) AS seq FROM commits WHERE stream_seq <= $1")
            .bind(big(sequence)),
        // The time at which it was decided: the archive doesn't know when the server stored it.
        Moment::Time(at) => sql::query(
            "SELECT coalesce((SELECT min(stream_seq) - 1 FROM events WHERE at_ms > $1), max(stream_seq), 0) AS seq FROM commits",
        )
        .bind(big_ms(at)),
    };
    let sequence = sequence
        .fetch_one(&mut *tx)
        .await
        .and_then(|row| row.number("seq"));
    let sequence = sequence.map_err(postgres)?;
    let found = sql::query(LAST_COMMITS)
        .bind(big(sequence))
        .fetch_all(&mut *tx)
        .await;
    let mut world = World::default();
    for row in &found.map_err(postgres)? {
        as_of::put(&mut world, &commits::commit(row)?);
    }
    world.sequence = sequence;
    Ok(world)
}

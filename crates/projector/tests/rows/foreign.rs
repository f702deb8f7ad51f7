//! A database that another program uses.

use crate::stores::InPostgres;
use reveille_projector::{Projection, ProjectorError, Tables, inspect_database};
use reveille_tests::Database;
use sqlx::{PgConnection, Row};

/// Every table, view and index of the database with its columns, and every row of the other program's.
async fn content(db: &mut PgConnection) -> Vec<String> {
    let columns = "SELECT attrelid::regclass || '.' || attname AS line FROM pg_attribute \
                   JOIN pg_class ON pg_class.oid = attrelid \
                   WHERE relnamespace = 'public'::regnamespace AND attnum > 0 ORDER BY line";
    let rows = sqlx::query(columns).fetch_all(db).await.expect("columns");
    rows.iter().map(|row| row.get("line")).collect()
}

async fn refused(database: &Database) -> String {
    let projection = Projection::new(database.url()).expect("a URL");
    match projection.migrate().await {
        Err(ProjectorError::Schema(why)) => why,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn tables_of_another_program_are_named_and_left_as_they_are() {
    for (tables, named) in [
        ("CREATE TABLE llms (id int PRIMARY KEY)", "(llms)"),
        (
            "CREATE TABLE wakes (id int); CREATE VIEW events AS SELECT 1 AS id",
            "(events, wakes)",
        ),
        (
            "CREATE TABLE auth_user (id int); CREATE TABLE django_migrations (id int)",
            "(auth_user, django_migrations)",
        ),
        (
            "CREATE TABLE a (); CREATE TABLE b (); CREATE TABLE c (); CREATE TABLE d (); CREATE TABLE e (); \
             CREATE TABLE f (); CREATE TABLE wakes ()",
            "(wakes, a, b, c, d and 2 more)",
        ),
        ("CREATE MATERIALIZED VIEW totals AS SELECT 1 AS id", "(totals)"),
        (
            "CREATE TABLE checkpoint (stream_seq bigint, hash text)",
            "(checkpoint)",
        ),
    ] {
        let database = Database::create().await;
        let mut db = database.connect().await;
        sqlx::raw_sql(tables).execute(&mut db).await.expect("tables");
        let before = content(&mut db).await;
        let why = refused(&database).await;
        assert!(why.contains(named) && why.contains("search_path"), "{why}");
        assert_eq!(content(&mut db).await, before, "{tables}");
        let health = inspect_database(database.url()).await.expect("an answer");
        assert!(matches!(health.tables, Tables::Foreign(_)), "{health:?}");
    }
}

#[tokio::test]
async fn migrations_of_another_program_are_left_as_they_are() {
    let database = Database::create().await;
    let mut db = database.connect().await;
    sqlx::raw_sql(
        "CREATE TABLE _sqlx_migrations (version bigint PRIMARY KEY, description text NOT NULL, \
         installed_on timestamptz NOT NULL DEFAULT now(), success boolean NOT NULL, checksum bytea NOT NULL, \
         execution_time bigint NOT NULL); \
         INSERT INTO _sqlx_migrations VALUES (20200101, 'theirs', now(), true, '\\x00', 1)",
    )
    .execute(&mut db)
    .await
    .expect("a table");
    let before = content(&mut db).await;
    let why = refused(&database).await;
    assert!(why.contains("another program"), "{why}");
    assert_eq!(content(&mut db).await, before);
}

#[tokio::test]
async fn a_schema_of_its_own_shares_a_database_with_another_program() {
    let database = Database::create().await;
    let mut db = database.connect().await;
    let theirs = "CREATE TABLE events (id int); CREATE TABLE llms (id int); CREATE SCHEMA ours";
    sqlx::raw_sql(theirs).execute(&mut db).await.expect("tables");
    let before = content(&mut db).await;
    let url = format!("{}&options=-csearch_path%3Dours", database.url());
    let store = InPostgres::at(Database::at(&url)).await;
    let health = inspect_database(&url).await.expect("an answer");
    assert_eq!(health.tables, Tables::Ours);
    assert_eq!(store.projection.mark().await.expect("a checkpoint").stream_seq, 0);
    assert_eq!(content(&mut db).await, before);
}

#[tokio::test]
async fn the_tables_of_an_extension_and_those_of_other_schemas_are_nobody_elses() {
    let database = Database::create().await;
    let mut db = database.connect().await;
    // Such as PostGIS's spatial_ref_sys. Only files on the server make an extension, so one that is there adopts them.
    let theirs = "CREATE TABLE spatial_ref_sys (id int); CREATE VIEW pg_stat_statements AS SELECT 1 AS id; \
                  ALTER EXTENSION plpgsql ADD TABLE spatial_ref_sys; \
                  ALTER EXTENSION plpgsql ADD VIEW pg_stat_statements; \
                  CREATE SCHEMA another; CREATE TABLE another.auth_user (id int)";
    sqlx::raw_sql(theirs)
        .execute(&mut db)
        .await
        .expect("an extension");
    let store = InPostgres::at(database).await;
    let health = inspect_database(store.database.url()).await.expect("an answer");
    assert_eq!(health.tables, Tables::Ours);
}

#[tokio::test]
async fn tables_that_came_later_keep_nobody_out() {
    let store = InPostgres::create().await;
    let mut db = store.database.connect().await;
    let later = "CREATE TABLE auth_user (id int); CREATE VIEW latest AS SELECT * FROM wakes";
    sqlx::raw_sql(later).execute(&mut db).await.expect("tables");
    let store = InPostgres::at(store.database).await;
    let health = inspect_database(store.database.url()).await.expect("an answer");
    assert_eq!(health.tables, Tables::Ours);
}

/// The names that are looked for are those of our tables.
#[tokio::test]
async fn every_table_of_ours_is_protected_from_being_taken_for_one() {
    let store = InPostgres::create().await;
    let mut db = store.database.connect().await;
    let rows = sqlx::query("SELECT tablename AS line FROM pg_tables WHERE schemaname = 'public' ORDER BY 1");
    let rows = rows.fetch_all(&mut db).await.expect("tables");
    let tables: Vec<String> = rows.iter().map(|row| row.get("line")).collect();
    assert_eq!(
        tables,
        [
            "_sqlx_migrations",
            "checkpoint",
            "commits",
            "events",
            "llms",
            "wakes"
        ]
    );
}

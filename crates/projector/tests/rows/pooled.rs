//! A database behind a pooler that gives each transaction another session.

use crate::{
    audit::{a_session, audited},
    contract::contract,
    history::some_history,
    journal::Hub,
    rebuild::rebuilt,
    stores::InPostgres,
};
use reveille_projector::{Tables, inspect_database};
use reveille_tests::{Database, PgBouncer, TransactionPooler};

async fn rows_are_written_and_read_at(database: &Database) {
    let health = inspect_database(database.url()).await.expect("an answer");
    assert_eq!(health.tables, Tables::Missing);
    let history = some_history();
    contract(InPostgres::at(database.clone()).await, &history, 4).await;
    let health = inspect_database(database.url()).await.expect("an answer");
    assert_eq!(health.tables, Tables::Ours);
}

async fn a_journal_is_followed_archived_and_folded_again_at(database: &Database) {
    let hub = Hub::start().await;
    a_session(&hub).await;
    let projectors = [hub.projector(database.url()), hub.projector(database.url())];
    for provider in ["a", "b", "c"] {
        let last = hub.wakes_once(provider).await;
        for projector in &projectors {
            projector.reaches(last).await;
        }
    }
    let last = hub.wakes_once("d").await;
    assert_eq!(rebuilt(&hub, database).await.applied, last);
    hub.rows_are_the_fold(database.url()).await;
    let (breaches, _) = audited(database.url()).await;
    assert_eq!(breaches, []);
    for projector in projectors {
        projector.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: run by cargo xtask test --all"]
async fn rows_are_written_and_read_through_a_pooler_of_transactions() {
    let database = Database::create().await;
    let pooler = TransactionPooler::start(&database).await;
    rows_are_written_and_read_at(pooler.database()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn projectors_and_rebuilds_work_through_a_pooler_of_transactions() {
    let database = Database::create().await;
    let pooler = TransactionPooler::start(&database).await;
    a_journal_is_followed_archived_and_folded_again_at(pooler.database()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PgBouncer"]
async fn everything_works_through_pgbouncer_in_transaction_mode() {
    let databases = [Database::create().await, Database::create().await];
    let poolers = [
        PgBouncer::start(&databases[0]).await,
        PgBouncer::start(&databases[1]).await,
    ];
    rows_are_written_and_read_at(poolers[0].database()).await;
    a_journal_is_followed_archived_and_folded_again_at(poolers[1].database()).await;
}

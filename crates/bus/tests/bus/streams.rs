//! The streams: made and checked.

use crate::events::{PATIENCE, jetstream, open};
use async_nats::jetstream::stream::{Config, StorageType};
use reveille_bus::{
    BusError, Connection, Follow, Follower, HEARTBEATS_STREAM, JOURNAL_STREAM, NatsAccess, access::Role,
    ensure_streams,
};
use reveille_tests::{Folder, Launch, Nats, Port, nats_server};
use std::fs;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

#[tokio::test]
async fn streams_are_made_once_and_found_from_then_on() {
    let nats = Nats::start().await;
    let connection = open(&nats.url()).await;
    assert_eq!(*connection.generation().borrow(), 1, "nothing was lost yet");
    let js = jetstream(&connection);
    // Several processes start at once.
    let (a, b, c) = tokio::join!(ensure_streams(&js), ensure_streams(&js), ensure_streams(&js));
    for made in [a, b, c, ensure_streams(&js).await] {
        made.unwrap();
    }
    let config = |name| {
        let js = js.clone();
        async move { js.get_stream(name).await.unwrap().cached_info().config.clone() }
    };
    let (journal, heartbeats) = (config(JOURNAL_STREAM).await, config(HEARTBEATS_STREAM).await);
    assert!(journal.deny_delete && journal.deny_purge && !journal.no_ack);
    assert!(heartbeats.no_ack && heartbeats.max_messages_per_subject == 1);
    assert_eq!(
        (journal.storage, heartbeats.storage),
        (StorageType::File, StorageType::File)
    );
}

#[tokio::test]
async fn a_stream_with_other_settings_is_refused_and_the_difference_named() {
    let theirs = || Config {
        name: JOURNAL_STREAM.to_owned(),
        subjects: vec!["reveille.events.>".to_owned()],
        ..Config::default()
    };
    let cases = [
        (
            Config {
                storage: StorageType::Memory,
                ..theirs()
            },
            "storage is Memory, should be File",
        ),
        (
            Config {
                max_age: std::time::Duration::from_secs(60),
                ..theirs()
            },
            "max_age is 60s, should be 0ns",
        ),
        (
            Config {
                max_messages_per_subject: 1,
                ..theirs()
            },
            "max_messages_per_subject is 1, should be -1",
        ),
        (theirs(), "republish is None"),
        (
            Config {
                subjects: vec!["reveille.events.*".to_owned()],
                ..theirs()
            },
            r#"subjects is ["reveille.events.*"]"#,
        ),
    ];
    for (config, difference) in cases {
        // A server may refuse to create a stream just after one was deleted.
        let nats = Nats::start().await;
        let connection = open(&nats.url()).await;
        let js = jetstream(&connection);
        js.create_stream(config).await.unwrap();
        let error = ensure_streams(&js).await.unwrap_err();
        assert!(
            matches!(
                error,
                BusError::StreamMismatch {
                    stream: JOURNAL_STREAM,
                    ..
                }
            ),
            "{error}"
        );
        assert!(error.to_string().contains(difference), "{error}");
        let mut follower = Follower::new(&connection, Follow::Latest);
        let told = tokio::time::timeout(PATIENCE, follower.next()).await.unwrap();
        assert!(matches!(told, Err(BusError::StreamMismatch { .. })), "{told:?}");
    }
}

/// After the deletion of an account's last stream a server may remove the folder that the next one needs.
#[tokio::test]
async fn a_stream_is_created_although_its_server_has_no_folder_for_it_at_first() {
    let nats = Nats::start().await;
    let js = jetstream(&open(&nats.url()).await);
    let account = nats.store().join("jetstream/$G");
    fs::create_dir_all(&account).unwrap();
    // The server removes it as it fails.
    fs::write(account.join("streams"), "").unwrap();
    ensure_streams(&js).await.unwrap();
    let log = nats.process().log();
    assert!(log.contains("Stream create failed"), "{log}");
}

#[tokio::test]
async fn sizes_and_descriptions_may_differ() {
    let nats = Nats::start().await;
    let connection = open(&nats.url()).await;
    let js = jetstream(&connection);
    ensure_streams(&js).await.unwrap();
    let mut config = js
        .get_stream(JOURNAL_STREAM)
        .await
        .unwrap()
        .cached_info()
        .config
        .clone();
    config.max_bytes = 1 << 30;
    config.description = Some("ours".to_owned());
    js.update_stream(config).await.unwrap();
    ensure_streams(&js).await.unwrap();
}

#[tokio::test]
async fn too_old_a_server_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let info = r#"{"server_id":"x","server_name":"old","version":"2.9.10","go":"go1.19","host":"127.0.0.1",
            "port":4222,"headers":true,"max_payload":1048576,"proto":1,"client_id":1,"jetstream":true}"#;
        let info = format!("INFO {}\r\n", info.replace('\n', ""));
        socket.write_all(info.as_bytes()).await.unwrap();
        let mut buffer = vec![0; 4096];
        while socket.read(&mut buffer).await.is_ok_and(|read| read > 0) {
            let _ = socket.write_all(b"PONG\r\n").await;
        }
    });
    let options = NatsAccess::open(&url, Role::Admin).named("test");
    // Trying again would not help, so `open` ends too.
    let opened = tokio::time::timeout(PATIENCE, Connection::open(&options))
        .await
        .unwrap();
    let error = opened.unwrap_err();
    assert!(
        matches!(&error, BusError::ServerTooOld { found, .. } if found == "2.9.10"),
        "{error}"
    );
    assert!(error.to_string().contains("2.12.0"), "{error}");
    tokio::time::timeout(PATIENCE, server)
        .await
        .expect("the connection is closed")
        .unwrap();
}

#[tokio::test]
async fn a_server_that_comes_late_is_waited_for() {
    let mut nats = Nats::start().await;
    nats.kill9();
    let url = nats.url();
    let opened = tokio::spawn(async move { open(&url).await });
    nats.restart().await;
    let connection = opened.await.unwrap();
    assert!(connection.is_connected());
    assert_eq!(*connection.generation().borrow(), 1);
}

#[tokio::test]
#[ignore = "slow: run by cargo xtask test --all"]
async fn a_cluster_without_jetstream_is_refused_once_its_other_servers_had_time_to_start() {
    let (folder, port, routes) = (Folder::new(), Port::claim(), Port::claim());
    let config = folder.path().join("nats.conf");
    let (listen, cluster) = (port.address(), routes.address());
    let text = format!("listen: \"{listen}\"\ncluster {{ name: test, listen: \"{cluster}\" }}\n");
    fs::write(&config, text).unwrap();
    let _server = Launch::new(nats_server(), folder.path().join("nats.log"))
        .arg("--config")
        .arg(&config)
        .start();
    let options = NatsAccess::open(&format!("nats://{listen}"), Role::Admin).named("test");
    let opened = tokio::time::timeout(PATIENCE, Connection::open(&options)).await;
    let error = opened.expect("an end").unwrap_err();
    assert!(matches!(error, BusError::NoJetStream), "{error}");
}

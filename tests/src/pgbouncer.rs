//! PgBouncer in transaction mode, with its usual settings.

use std::{fs, os::unix::fs::chown};

use sqlx::{Connection, PgConnection};

use crate::{
    Database, Folder, Launch, Port, Process, SOON, postgres::owner, programs::pgbouncer, wait_until,
};

/// Fewer sessions than a process of ours has connections, so that clients share them.
const SESSIONS: u32 = 2;

/// A PgBouncer in front of one database.
#[derive(Debug)]
pub struct PgBouncer {
    database: Database,
    _process: Process,
    _port: Port,
    _folder: Folder,
}

impl PgBouncer {
    /// Starts one in front of `database`.
    pub async fn start(database: &Database) -> Self {
        let (folder, port) = (Folder::new(), Port::claim());
        let url: reqwest::Url = database.url().parse().expect("a URL");
        let (user, name) = (url.username(), url.path().trim_start_matches('/'));
        let config = format!(
            "[databases]\n{name} = host=127.0.0.1 port={} user={user}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\nunix_socket_dir =\nauth_type = any\n\
             pool_mode = transaction\ndefault_pool_size = {SESSIONS}\n",
            url.port().expect("a port"),
            port.number(),
        );
        let file = folder.path().join("pgbouncer.ini");
        fs::write(&file, config).expect("a config");
        // It refuses to run as root.
        let owner = owner();
        if let Some((user, group)) = owner {
            for path in [folder.path(), &file] {
                chown(path, Some(user), Some(group)).expect("root can give a file away");
            }
        }
        let process = Launch::new(pgbouncer(), folder.path().join("pgbouncer.log"))
            .arg(&file)
            .user(owner)
            .start();
        let database = Database::at(&format!(
            "postgres://{user}@{}/{name}?sslmode=disable",
            port.address()
        ));
        wait_until("PgBouncer answered", SOON, async || {
            assert!(process.is_running(), "PgBouncer ended:\n{}", process.log());
            let options = database.url().parse::<sqlx::postgres::PgConnectOptions>();
            let options = options.expect("a URL").extra_float_digits(None);
            PgConnection::connect_with(&options).await.ok()
        })
        .await;
        Self {
            database,
            _process: process,
            _port: port,
            _folder: folder,
        }
    }

    /// The database as it is reached through PgBouncer.
    pub fn database(&self) -> &Database {
        &self.database
    }
}

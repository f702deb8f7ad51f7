//! A pooler of transactions in front of PostgreSQL that is as unkind as a pooler may be: each transaction, and each exchange
//! outside of one, gets the session that has rested longest. PgBouncer mostly gives the same one again, so what depends on a
//! session fails there now and then, and here always. Like PgBouncer it knows few settings of a start-up message.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::Database;

/// How many sessions there are before the first client comes. More are opened when all are taken.
const SESSIONS: usize = 3;
/// Settings that a client may begin with.
const SETTINGS: [&str; 6] = [
    "user",
    "database",
    "DateStyle",
    "client_encoding",
    "TimeZone",
    "application_name",
];

/// A pooler at work until it is dropped.
#[derive(Debug)]
pub struct TransactionPooler {
    database: Database,
    accepts: JoinHandle<()>,
}

impl Drop for TransactionPooler {
    fn drop(&mut self) {
        self.accepts.abort();
    }
}

impl TransactionPooler {
    /// Starts one in front of `database`.
    pub async fn start(database: &Database) -> Self {
        let url: reqwest::Url = database.url().parse().expect("a URL");
        let server = format!(
            "{}:{}",
            url.host_str().expect("a host"),
            url.port().expect("a port")
        );
        let name = url.path().trim_start_matches('/').to_owned();
        let pool = Arc::new(Pool {
            server,
            user: url.username().to_owned(),
            database: name.clone(),
            resting: Mutex::default(),
        });
        for _ in 0..SESSIONS {
            let session = pool.open().await.expect("a session");
            pool.rest(session);
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let accepts = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let pool = pool.clone();
                // A client that leaves ends its own connection only.
                tokio::spawn(async move { serve(client, &pool).await });
            }
        });
        let url = format!("postgres://{}@{address}/{name}?sslmode=disable", url.username());
        Self {
            database: Database::at(&url),
            accepts,
        }
    }

    /// The database as it is reached through the pooler.
    pub fn database(&self) -> &Database {
        &self.database
    }
}

struct Pool {
    server: String,
    user: String,
    database: String,
    resting: Mutex<VecDeque<TcpStream>>,
}

impl Pool {
    fn rest(&self, session: TcpStream) {
        self.resting.lock().expect("not poisoned").push_back(session);
    }

    async fn take(&self) -> io::Result<TcpStream> {
        let rested = self.resting.lock().expect("not poisoned").pop_front();
        match rested {
            Some(session) => Ok(session),
            None => self.open().await,
        }
    }

    async fn open(&self) -> io::Result<TcpStream> {
        let mut session = TcpStream::connect(&self.server).await?;
        session.set_nodelay(true)?;
        let mut settings = 0x0003_0000_u32.to_be_bytes().to_vec();
        for text in [
            "user",
            &self.user,
            "database",
            &self.database,
            "DateStyle",
            "ISO, MDY",
            "TimeZone",
            "UTC",
        ] {
            settings.extend_from_slice(text.as_bytes());
            settings.push(0);
        }
        settings.push(0);
        let length = u32::try_from(settings.len() + 4).expect("short");
        session.write_all(&length.to_be_bytes()).await?;
        session.write_all(&settings).await?;
        while message(&mut session).await?.kind() != b'Z' {}
        Ok(session)
    }
}

/// A message of the protocol, its kind and length included.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u8, content: &[u8]) -> Self {
        let length = u32::try_from(content.len() + 4).expect("short");
        Self([&[kind], &length.to_be_bytes()[..], content].concat())
    }

    fn kind(&self) -> u8 {
        self.0[0]
    }
}

async fn message(stream: &mut TcpStream) -> io::Result<Message> {
    let mut bytes = vec![0; 5];
    stream.read_exact(&mut bytes).await?;
    let length = u32::from_be_bytes(bytes[1..5].try_into().expect("four bytes")) as usize;
    bytes.resize(length + 1, 0);
    stream.read_exact(&mut bytes[5..]).await?;
    Ok(Message(bytes))
}

async fn serve(mut client: TcpStream, pool: &Pool) -> io::Result<()> {
    client.set_nodelay(true)?;
    greet(&mut client).await?;
    let mut pinned = None;
    loop {
        // An exchange ends with Query or Sync.
        let mut exchange = vec![];
        let is_end = loop {
            let next = message(&mut client).await?;
            let kind = next.kind();
            exchange.extend_from_slice(&next.0);
            if matches!(kind, b'Q' | b'S' | b'X') {
                break kind == b'X';
            }
        };
        if is_end {
            return Ok(());
        }
        let mut session = match pinned.take() {
            Some(session) => session,
            None => pool.take().await?,
        };
        session.write_all(&exchange).await?;
        let in_transaction = loop {
            let answer = message(&mut session).await?;
            client.write_all(&answer.0).await?;
            if answer.kind() == b'Z' {
                break answer.0[5] != b'I';
            }
        };
        if in_transaction {
            pinned = Some(session);
        } else {
            pool.rest(session);
        }
    }
}

/// Lets a client in, if it asks for nothing that a pooler can't keep for it.
async fn greet(client: &mut TcpStream) -> io::Result<()> {
    let mut length = [0; 4];
    client.read_exact(&mut length).await?;
    let mut startup = vec![0; u32::from_be_bytes(length) as usize - 4];
    client.read_exact(&mut startup).await?;
    let mut texts = startup[4..].split(|byte| *byte == 0).map(String::from_utf8_lossy);
    while let Some(setting) = texts.next().filter(|setting| !setting.is_empty()) {
        if !SETTINGS.contains(&&*setting) {
            let error = format!("SFATAL\0C08P01\0Munsupported startup parameter: {setting}\0\0");
            return client.write_all(&Message::new(b'E', error.as_bytes()).0).await;
        }
        texts.next();
    }
    for (kind, content) in [
        (b'R', &[0, 0, 0, 0][..]),
        (b'S', b"server_version\x0015.0\0"),
        (b'K', &[0, 0, 0, 1, 0, 0, 0, 1]),
        (b'Z', b"I"),
    ] {
        client.write_all(&Message::new(kind, content).0).await?;
    }
    Ok(())
}

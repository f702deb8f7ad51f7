//! A proxy between a client and its server that loses one append, or one append's answer.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU32, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// The protocol's words for an append.
const APPEND: &[u8] = b"HPUB reveille.events.";

/// What becomes of the next append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Lose {
    /// It reaches the server, its answer reaches nobody, and the connection breaks.
    Answer = 1,
    /// It never reaches the server, and the connection breaks.
    Append = 2,
}

#[derive(Default)]
struct Plan {
    /// A [`Lose`], or 0 for nothing.
    lose: AtomicU8,
    lost: AtomicU32,
}

/// The proxy; it ends when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    plan: Arc<Plan>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub async fn start(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let plan = Arc::new(Plan::default());
        let server = server.trim_start_matches("nats://").to_owned();
        let task = tokio::spawn({
            let plan = plan.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    if let Ok(server) = TcpStream::connect(&server).await {
                        tokio::spawn(carry(client, server, plan.clone()));
                    }
                }
            }
        });
        Self { address, plan, task }
    }

    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Loses this once, from now on.
    pub fn lose(&self, what: Lose) {
        self.plan.lose.store(what as u8, Ordering::SeqCst);
    }

    /// How often something was lost.
    pub fn lost(&self) -> u32 {
        self.plan.lost.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Carries bytes both ways until either side ends or something is lost.
async fn carry(mut client: TcpStream, mut server: TcpStream, plan: Arc<Plan>) {
    let (mut asked, mut answered) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let Ok(read @ 1..) = read else { return };
                let appends = asked[..read].windows(APPEND.len()).any(|window| window == APPEND);
                let lose = if appends { plan.lose.swap(0, Ordering::SeqCst) } else { 0 };
                if lose != 0 {
                    plan.lost.fetch_add(1, Ordering::SeqCst);
                }
                if lose == Lose::Append as u8 || server.write_all(&asked[..read]).await.is_err() {
                    return;
                }
                if lose == Lose::Answer as u8 {
                    // The server has dealt with the append when it answers.
                    let _ = server.read(&mut answered).await;
                    return;
                }
            }
            read = server.read(&mut answered) => {
                let Ok(read @ 1..) = read else { return };
                if client.write_all(&answered[..read]).await.is_err() {
                    return;
                }
            }
        }
    }
}
